from pathlib import Path

import pytest

from loractl.demo.files import CLONE, DemoError, find_demo_files


def test_files_are_found_in_a_clone() -> None:
    files = find_demo_files(CLONE, None)

    assert (files.root / files.base / "model.safetensors").is_file()
    assert (files.root / files.adapter("pirate") / "adapter_model.safetensors").is_file()


def test_files_outside_a_clone_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="cannot find the demo's") as refused:
        find_demo_files(tmp_path, None)

    assert "clone the repository" in str(refused.value.hint)


def test_adapters_folder_without_adapters_is_refused_naming_them(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=str(tmp_path)) as refused:
        find_demo_files(CLONE, tmp_path)

    assert "pirate" in str(refused.value.hint)
