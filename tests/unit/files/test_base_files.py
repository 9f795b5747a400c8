from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.files import entry, packed

from loractl_registry.base_files import check_base, scan_base
from loractl_registry.file_errors import (
    BaseFilesError,
    MalformedSafetensorsError,
    SourceNotFoundError,
    UnsafeFileError,
)

WEIGHTS = "model.safetensors"
TENSOR = "model.embed_tokens.weight"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _set(folder: Path, name: str, **changes: object) -> None:
    held = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    _write_json(folder / name, {**held, **changes})


def test_scan_takes_what_an_engine_reads_and_ignores_the_rest(base, progress):
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "merges.txt"):
        (base / name).write_text("{}")
    (base / "README.md").write_text("# Tiny")
    (base / "original").mkdir()
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}")

    found = scan_base(base, progress)

    assert [file.path for file in found.manifest.files] == [
        "additional_chat_templates/tool.jinja", "chat_template.jinja", "config.json", "generation_config.json",
        "merges.txt", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert set(found.ignored) == {"README.md", "original", "additional_chat_templates"}
    assert found.config["model_type"] == "qwen3_moe"
    assert progress.count == progress.total == found.manifest.size_bytes


def test_scan_of_the_same_bytes_elsewhere_has_the_same_digest(base, tmp_path):
    shutil.copytree(base, tmp_path / "copy")

    assert scan_base(base).manifest == scan_base(tmp_path / "copy").manifest


def _hidden_auto_map(folder: Path) -> None:
    _set(folder, "config.json", text_config={"nested": [{"auto_map": {"AutoModel": "modeling.Evil"}}]})


def _link_out(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda f: (f / "modeling_x.py").touch(), r"\.py files can carry code", id="code"),
        pytest.param(lambda f: (f / "pytorch_model.bin").touch(), r"\.bin files can carry code", id="pickle"),
        pytest.param(lambda f: (f / "notes.txt").write_bytes(b"\x80\x04x"), "a pickle", id="renamed-pickle"),
        pytest.param(lambda f: _set(f, "config.json", auto_map={"a": "b"}), "auto_map", id="auto-map"),
        pytest.param(
            lambda f: _set(f, "tokenizer_config.json", auto_map={"a": "b"}), "auto_map", id="tokenizer-auto-map"
        ),
        pytest.param(_hidden_auto_map, "auto_map", id="nested-auto-map"),
        pytest.param(_link_out, "a link to '/etc/hostname'", id="link-out"),
        pytest.param(lambda f: os.mkfifo(f / "x.json"), "not a regular file", id="fifo"),
        pytest.param(lambda f: (f / "a\\b.json").touch(), "its name", id="backslash"),
    ],
)
def test_base_with_code_or_links_is_refused(base, spoil, message):
    spoil(base)

    with pytest.raises(UnsafeFileError, match=message) as caught:
        scan_base(base)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        pytest.param(lambda f: (f / "config.json").unlink(), SourceNotFoundError, "no config.json", id="no-config"),
        pytest.param(lambda f: (f / WEIGHTS).unlink(), SourceNotFoundError, r"no \.safetensors", id="no-weights"),
        pytest.param(lambda f: (f / "config.json").write_text("["), BaseFilesError, "not JSON", id="config-not-json"),
        pytest.param(lambda f: os.truncate(f / WEIGHTS, 900), MalformedSafetensorsError, "truncated", id="cut"),
        pytest.param(shutil.rmtree, SourceNotFoundError, "does not exist", id="gone"),
    ],
)  # fmt: skip
def test_incomplete_base_is_refused(base, spoil, error, message):
    spoil(base)

    with pytest.raises(error, match=message):
        scan_base(base)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        pytest.param({TENSOR: "model-2.safetensors"}, "names 'model-2.safetensors', which is not there", id="no-shard"),
        pytest.param({TENSOR: "../x.safetensors"}, "which is not there", id="traversal"),
        pytest.param({TENSOR: 5}, "names 5", id="number"),
        pytest.param({"other.weight": "model.safetensors"}, "names tensor 'other.weight'", id="no-tensor"),
        pytest.param(None, "no weight_map", id="no-map"),
    ],
)
def test_index_that_names_what_is_not_there_is_refused(base, weight_map, message):
    _write_json(base / "model.safetensors.index.json", {"weight_map": weight_map})

    with pytest.raises(BaseFilesError, match=message):
        scan_base(base)


def test_index_of_every_shard_is_accepted(base):
    (base / "model-2.safetensors").write_bytes(packed({"b": entry("U8", [3], 0, 3)}, bytes(3)))
    _write_json(
        base / "model.safetensors.index.json", {"weight_map": {TENSOR: "model.safetensors", "b": "model-2.safetensors"}}
    )

    assert len(scan_base(base).manifest.files) == 5


@pytest.fixture
def snapshot(base, tmp_path) -> Path:
    repository = tmp_path / "models--acme--tiny"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in base.iterdir():
        shutil.copyfile(path, repository / "blobs" / f"blob-{path.name}")
        (folder / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    return folder


def test_snapshot_of_the_cache_is_the_same_base(base, snapshot):
    assert scan_base(snapshot).manifest == scan_base(base).manifest


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../elsewhere", "../../blobs/../../elsewhere", "../../blobs/nothing"]
)
def test_link_of_a_snapshot_out_of_its_repository_is_refused(snapshot, tmp_path, target):
    (tmp_path / "elsewhere").write_text("x")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(target)

    with pytest.raises(UnsafeFileError, match="a link to"):
        scan_base(snapshot)


def test_blob_that_is_a_link_itself_is_refused(snapshot, tmp_path):
    blob = snapshot.parent.parent / "blobs" / "blob-tokenizer.json"
    blob.unlink()
    blob.symlink_to("/etc/hostname")

    with pytest.raises(UnsafeFileError, match="a link to"):
        scan_base(snapshot)


def test_quick_check_of_an_untouched_base_reads_nothing(base, progress):
    found = scan_base(base)

    check = check_base(base, found.manifest, found.signatures, full=False, progress=progress)

    assert (check.is_intact, check.rehashed, progress.count) == (True, 0, 0)
    assert check.signatures == found.signatures


def test_full_check_reads_everything(base, progress):
    found = scan_base(base)

    check = check_base(base, found.manifest, found.signatures, full=True, progress=progress)

    assert (check.is_intact, check.rehashed) == (True, 3)
    assert progress.count == found.manifest.size_bytes


def test_touched_file_is_hashed_again_and_found_the_same(base):
    found = scan_base(base)
    os.utime(base / "tokenizer.json", (1, 1))

    check = check_base(base, found.manifest, found.signatures, full=False)

    assert (check.is_intact, check.rehashed) == (True, 1)
    assert check.signatures["tokenizer.json"] != found.signatures["tokenizer.json"]


@pytest.mark.parametrize(
    ("spoil", "path", "message"),
    [
        pytest.param(lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json", "sha256:", id="altered"),
        pytest.param(lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", "missing", id="missing"),
        pytest.param(lambda f: (f / "more.safetensors").touch(), "more.safetensors", "unexpected file", id="added"),
        pytest.param(lambda f: (f / "modeling.py").touch(), "modeling.py", "unexpected file", id="code"),
        pytest.param(_link_out, "tokenizer.json", "refused 'tokenizer.json'", id="link"),
        pytest.param(shutil.rmtree, "config.json", "missing", id="gone"),
    ],
)
def test_check_names_what_is_damaged(base, spoil, path, message):
    found = scan_base(base)
    spoil(base)

    check = check_base(base, found.manifest, found.signatures, full=False)

    assert {each.path: each.found[: len(message)] for each in check.damaged}[path] == message
    assert not check.is_intact
    assert path not in check.signatures


def test_altered_file_with_the_old_time_is_found_by_the_quick_check(base):
    found = scan_base(base)
    before = (base / "tokenizer.json").stat()
    data = bytearray((base / "tokenizer.json").read_bytes())
    data[-2] ^= 1
    (base / "tokenizer.json").write_bytes(data)
    os.utime(base / "tokenizer.json", ns=(before.st_atime_ns, before.st_mtime_ns))

    assert not check_base(base, found.manifest, found.signatures, full=False).is_intact
