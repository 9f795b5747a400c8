from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from loractl_registry.errors import RegistryError
from loractl_registry.file_errors import (
    AdapterConfigError,
    MalformedSafetensorsError,
    SourceNotFoundError,
    UnreadableError,
    UnsafeFileError,
)
from loractl_registry.intake import MAX_ENTRIES, opened_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.getcwd, ()


def _zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(_Evil()))
    return buffer.getvalue()


def _tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


CONTENTS = {
    **{f"pickle-{protocol}": pickle.dumps(_Evil(), protocol) for protocol in range(6)},
    "torch-zip": _zipped(),
    "gzip": gzip.compress(b"x"),
    "tar": _tarred(),
    "elf": b"\x7fELF\x02\x01\x01",
    "windows": b"MZ\x90\x00",
    "script": b"#!/bin/sh\nid\n",
    "hdf5": b"\x89HDF\r\n\x1a\n",
    "numpy": b"\x93NUMPY\x01\x00",
}


@pytest.mark.parametrize("name", ["notes.txt", "tokenizer.json", "README.md", "LICENSE", CONFIG])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_file_that_can_carry_code_refuses_the_folder_whatever_its_name(adapter, store, name, content):
    (adapter / name).write_bytes(content)

    with pytest.raises(UnsafeFileError, match="can carry code") as caught:
        store.ingest(adapter)

    assert caught.value.file == name
    assert caught.value.hint
    assert store.leftovers() == ()


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_weights_that_are_something_else_are_refused(adapter, store, content):
    (adapter / WEIGHTS).write_bytes(content)

    with pytest.raises(MalformedSafetensorsError):
        store.ingest(adapter)

    assert store.leftovers() == ()


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin", "optimizer.pt", "rng_state.pth", "x.pkl", "x.ckpt", "x.PKL", "x.Bin", "model.msgpack",
        "tf_model.h5", "modeling.py", "x.so", "run.sh", "x.ipynb", "x.zip", "x.tar.gz", ".pth", "x.npy", "x.pyc",
    ],
)  # fmt: skip
def test_ending_that_stands_for_code_refuses_the_folder(adapter, store, name):
    (adapter / name).write_bytes(b"")

    with pytest.raises(UnsafeFileError, match="files can carry code"):
        store.ingest(adapter)


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nothing")


def _fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(path))


def _hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md", "notes.txt"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param(_link, "a symbolic link", id="link"),
        pytest.param(_dangling, "a symbolic link", id="dangling-link"),
        pytest.param(_fifo, "not a regular file", id="fifo"),
        pytest.param(_socket, "not a regular file", id="socket"),
        pytest.param(_hard_link, "a hard link", id="hard-link"),
    ],
)
def test_entry_that_is_no_file_of_its_own_refuses_the_folder(adapter, store, tmp_path, name, place, message):
    outside = tmp_path / "outside"
    outside.write_text("secret")
    (adapter / name).unlink(missing_ok=True)
    place(adapter / name, outside)

    with pytest.raises(UnsafeFileError, match=message):
        store.ingest(adapter)


@pytest.mark.parametrize(
    "name", ["a\\b", "a\nb", "a\x1b[31mb", "a\u202eb", "..\\..\\x", os.fsdecode(b"\xff\xfe")], ids=ascii
)
def test_hostile_file_name_refuses_the_folder(adapter, store, name):
    (adapter / name).write_text("x")

    with pytest.raises(UnsafeFileError, match="its name") as caught:
        store.ingest(adapter)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["new_embeddings.safetensors", "adapter_model-00001-of-00002.SAFETENSORS"])
def test_weights_that_would_be_left_out_refuse_the_folder(adapter, store, name):
    (adapter / name).write_bytes(b"x")

    with pytest.raises(UnsafeFileError, match="would be left out"):
        store.ingest(adapter)


def test_folder_with_too_many_entries_is_refused(adapter, store, monkeypatch):
    monkeypatch.setattr("loractl_registry.intake.MAX_ENTRIES", 5)
    for number in range(6):
        (adapter / f"{number}.txt").touch()

    with pytest.raises(UnsafeFileError, match="more than 5 entries"):
        store.ingest(adapter)
    assert MAX_ENTRIES == 10_000


def test_harmless_files_and_folders_are_ignored_and_named(adapter, store):
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "NOTICE").write_text("copyright (c) 2026\nAll rights\nReserved.\n")
    (adapter / "checkpoint-5").mkdir()
    (adapter / "checkpoint-5" / "optimizer.pt").write_bytes(b"\x80\x02.")
    (adapter / "README.md").write_text("# Hello")

    ingested = store.ingest(adapter)

    assert ingested.ignored == ("NOTICE", "checkpoint-5", "tokenizer.json")
    assert [file.path for file in ingested.manifest.files] == ["README.md", CONFIG, WEIGHTS]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_file_is_named(adapter, store, name):
    (adapter / name).unlink()

    with pytest.raises(SourceNotFoundError, match=f"has no {name}"):
        store.ingest(adapter)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md"])
def test_folder_in_the_place_of_a_file_is_refused(adapter, store, name):
    (adapter / name).unlink(missing_ok=True)
    (adapter / name).mkdir()

    with pytest.raises(UnsafeFileError, match="not a regular file"):
        store.ingest(adapter)


@pytest.mark.parametrize("name", ["nothing", f"adapter/{CONFIG}"])
def test_source_that_is_no_folder_is_named(adapter, store, name):
    with pytest.raises(SourceNotFoundError, match=r"does not exist|is not a folder"):
        store.ingest(adapter.parent / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["", WEIGHTS])
def test_source_that_may_not_be_read_is_named(adapter, store, name):
    (adapter / name).chmod(0)

    with pytest.raises(UnreadableError, match="may not read"):
        store.ingest(adapter)

    (adapter / name).chmod(0o700)


def test_config_that_is_too_large_is_refused(adapter, store):
    (adapter / CONFIG).write_bytes(b" " * (2**20 + 1))

    with pytest.raises(UnsafeFileError, match="at most 1048576 are taken"):
        store.ingest(adapter)


def test_bad_config_leaves_nothing_behind(adapter, store):
    (adapter / CONFIG).write_text('{"r": 0}')

    with pytest.raises(AdapterConfigError):
        store.ingest(adapter)

    assert store.leftovers() == store.digests() == ()


def test_file_that_is_swapped_after_opening_is_not_the_one_that_is_read(adapter, tmp_path):
    good = (adapter / CONFIG).read_bytes()

    with opened_folder(adapter) as opened:
        (adapter / CONFIG).unlink()
        (adapter / CONFIG).write_text("swapped")
        found = {file.name: os.pread(file.handle, file.size_bytes, 0) for file in opened.files}

    assert found[CONFIG] == good


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_descriptor_stays_open(adapter, store):
    before = _open_descriptors()
    (adapter / "x.pkl").touch()

    with pytest.raises(RegistryError):
        store.ingest(adapter)

    assert _open_descriptors() == before
