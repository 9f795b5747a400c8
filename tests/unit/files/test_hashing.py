from __future__ import annotations

import hashlib

import pytest

from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.hashing import BUFFER_BYTES, hash_file, hash_files
from loractl_registry.home_errors import StorageError

SIZES = [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES]


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_digests_are_those_of_hashlib_sorted_by_path(tmp_path, progress, workers):
    contents = {f"f{size}": bytes(size) for size in SIZES}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)

    found = hash_files(tmp_path, contents, progress, workers)

    assert [entry.path for entry in found] == sorted(contents)
    assert {entry.path: entry.digest for entry in found} == {
        name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in contents.items()
    }
    assert progress.count == progress.total == sum(SIZES)
    assert progress.ended == 1


@pytest.mark.parametrize("expected", [3, 5])
def test_file_of_another_length_is_refused(tmp_path, expected):
    (tmp_path / "f").write_bytes(b"1234")

    with pytest.raises(ChangedWhileReadError):
        hash_file(tmp_path / "f", expected_bytes=expected)


@pytest.mark.parametrize("workers", [1, 3])
def test_missing_file_is_named_and_ends_the_progress(tmp_path, progress, workers, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    real = type(tmp_path).open

    def vanish(path, *arguments, **options):
        if path.name == "b":
            path.unlink()
        return real(path, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "open", vanish)

    with pytest.raises(StorageError, match="b: No such file"):
        hash_files(tmp_path, ["a", "b"], progress, workers)
    assert progress.ended == 1


def test_nothing_to_hash_is_no_error(tmp_path, progress):
    assert hash_files(tmp_path, [], progress) == ()
