from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.registry import write_adapter

from loractl_registry import copying
from loractl_registry.content import ContentStore
from loractl_registry.errors import RegistryError
from loractl_registry.file_errors import ChangedWhileReadError
from loractl_registry.home_errors import DiskFullError, ReadOnlyError
from loractl_registry.outcomes import Damage
from loractl_registry.records import ExpertLayout

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def published(store, adapter):
    ingested = store.ingest(adapter)
    ingested.publish()
    ingested.discard()
    return ingested


def _spoil(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_ingest_shows_nothing_before_publish(store, adapter):
    ingested = store.ingest(adapter)

    assert store.digests() == ()
    assert store.leftovers() == (ingested.draft,)


def test_publish_puts_the_same_bytes_under_their_digest(store, adapter, published):
    folder = store.path_of(published.manifest.digest)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }
    assert store.digests() == (published.manifest.digest,)
    assert store.leftovers() == store.strays() == ()


def test_published_files_and_folder_are_read_only(store, published):
    folder = store.path_of(published.manifest.digest)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o555
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    assert store.wrong_modes(published.manifest.digest) == ()


def test_facts_come_from_config_and_header(published):
    facts = published.facts

    assert (facts.rank, facts.alpha, facts.experts) == (4, 8, ExpertLayout.PER_EXPERT)
    assert facts.modules == ("experts", "q_proj", "v_proj")
    assert (facts.dtype, facts.declared_base) == ("bfloat16", "tiny-moe")
    assert facts.tensor_count == len(published.tensors)


def test_same_files_have_the_same_digest_and_others_another(store, tmp_path):
    first, again, other = (
        store.ingest(write_adapter(tmp_path / name, seed=seed)).manifest.digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )

    assert first == again != other


def test_discard_leaves_nothing_and_may_be_repeated(store, adapter):
    ingested = store.ingest(adapter)

    ingested.discard()
    ingested.discard()

    assert store.leftovers() == ()


def test_publishing_what_is_there_changes_nothing(store, adapter, published):
    folder = store.path_of(published.manifest.digest)
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    again = store.ingest(adapter)

    again.publish()
    again.discard()

    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
    assert store.leftovers() == ()


def _delete(folder: Path) -> None:
    folder.chmod(0o700)
    (folder / WEIGHTS).unlink()


def _link(folder: Path) -> None:
    _delete(folder)
    (folder / WEIGHTS).symlink_to("/etc/hostname")


def _add(folder: Path) -> None:
    folder.chmod(0o700)
    (folder / "adapter_model.bin").write_bytes(b"x")


def _add_folder(folder: Path) -> None:
    folder.chmod(0o700)
    (folder / "more").mkdir()


def _truncate(folder: Path) -> None:
    (folder / WEIGHTS).chmod(0o600)
    os.truncate(folder / WEIGHTS, 10)


def _replace_by_file(folder: Path) -> None:
    folder.chmod(0o700)
    folder.rename(folder.parent / "aside")
    folder.write_text("x")


DAMAGES = [
    pytest.param(lambda folder: _spoil(folder / WEIGHTS), WEIGHTS, "sha256:", id="flipped-bit"),
    pytest.param(_truncate, WEIGHTS, "sha256:", id="truncated"),
    pytest.param(_delete, WEIGHTS, "missing", id="missing"),
    pytest.param(_link, WEIGHTS, "not a regular file", id="link"),
    pytest.param(_add, "adapter_model.bin", "unexpected file", id="added"),
    pytest.param(_add_folder, "more", "unexpected file", id="added-folder"),
    pytest.param(_replace_by_file, WEIGHTS, "not a regular file", id="file-for-folder"),
]


@pytest.mark.parametrize(("damage", "path", "found"), DAMAGES)
def test_verify_names_what_is_damaged(store, published, damage, path, found):
    damage(store.path_of(published.manifest.digest))

    damaged = {each.path: each for each in store.verify(published.manifest.digest, published.manifest)}

    assert damaged[path].found.startswith(found)


@pytest.mark.parametrize(("damage", "path", "found"), DAMAGES)
def test_adding_the_good_bytes_again_heals_what_is_damaged(store, adapter, published, damage, path, found):
    damage(store.path_of(published.manifest.digest))
    again = store.ingest(adapter)

    again.publish()
    again.discard()

    assert store.verify(published.manifest.digest, published.manifest) == ()
    assert store.wrong_modes(published.manifest.digest) == ()


def test_verify_says_that_everything_is_missing(store, published):
    store.remove(published.manifest.digest)

    assert store.verify(published.manifest.digest, published.manifest) == tuple(
        Damage(entry.path, entry.digest, "missing") for entry in published.manifest.files
    )


def test_remove_leaves_nothing_and_may_be_repeated(store, published):
    store.remove(published.manifest.digest)
    store.remove(published.manifest.digest)

    assert store.digests() == store.leftovers() == store.strays() == ()


def test_modes_are_restored(store, published):
    folder = store.path_of(published.manifest.digest)
    folder.chmod(0o755)
    (folder / WEIGHTS).chmod(0o644)

    assert store.wrong_modes(published.manifest.digest) == (folder, folder / WEIGHTS)
    store.restore_modes(published.manifest.digest)
    assert store.wrong_modes(published.manifest.digest) == ()


def test_strays_are_found_and_empty_shelves_are_not(store, published):
    (store.root / "sha256" / "zz").mkdir()
    (store.root / "sha256" / "ab").mkdir(exist_ok=True)
    (store.root / "sha256" / "ab" / "junk").touch()
    (store.root / "notes").touch()

    assert store.strays() == (store.root / "notes", store.root / "sha256" / "ab" / "junk")


def test_only_a_leftover_can_be_removed_as_one(store, published):
    with pytest.raises(ValueError, match="not a leftover"):
        store.remove_leftover(store.path_of(published.manifest.digest))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", f"sha256:{'A' * 64}", f"md5:{'0' * 64}"])
def test_path_of_takes_digests_alone(store, digest):
    with pytest.raises(ValueError, match="not a sha256 digest"):
        store.path_of(digest)


def test_progress_counts_every_byte_and_ends(store, adapter, progress):
    manifest = store.ingest(adapter, progress).manifest

    assert progress.count == progress.total == manifest.size_bytes
    assert progress.ended == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [
        pytest.param(errno.ENOSPC, DiskFullError, id="disk-full"),
        pytest.param(errno.EDQUOT, DiskFullError, id="quota"),
        pytest.param(errno.EROFS, ReadOnlyError, id="read-only"),
        pytest.param(errno.EIO, RegistryError, id="broken-disk"),
    ],
)
@pytest.mark.parametrize("call", ["copy_file_range", "fsync"])
def test_failure_to_write_is_named_and_leaves_nothing(store, adapter, progress, monkeypatch, number, error, call):
    def fail(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copying.os, call, fail)

    with pytest.raises(error):
        store.ingest(adapter, progress)

    assert store.leftovers() == store.digests() == ()
    assert progress.ended == 1
    assert "loractl-copy" not in {thread.name for thread in threading.enumerate()}


def _large(adapter: Path) -> bytes:
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / "README.md").write_bytes(b"x" * (3 * copying.BUFFER_BYTES + 7))
    return data


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(errno.EXDEV, id="other-device"),
        pytest.param(errno.ENOSYS, id="old-kernel"),
        pytest.param(0, id="0"),
    ],
)
def test_copy_without_the_help_of_the_kernel_is_the_same(store, adapter, monkeypatch, answer):
    _large(adapter)
    with_help = store.ingest(adapter).manifest

    def refuse(*arguments: object) -> int:
        if answer:
            raise OSError(answer, os.strerror(answer))
        return 0

    monkeypatch.setattr(copying.os, "copy_file_range", refuse)

    assert store.ingest(adapter).manifest == with_help


@pytest.mark.parametrize("change", [pytest.param(-1, id="shorter"), pytest.param(1, id="longer")])
def test_source_that_changes_its_length_is_refused(store, adapter, monkeypatch, change):
    _large(adapter)
    real = copying.os.copy_file_range

    def change_first(source: int, target: int, num_bytes: int) -> int:
        readme = adapter / "README.md"
        if os.fstat(source).st_ino == readme.stat().st_ino:
            os.truncate(readme, readme.stat().st_size + change)
        return real(source, target, num_bytes)

    monkeypatch.setattr(copying.os, "copy_file_range", change_first)

    with pytest.raises(ChangedWhileReadError, match=r"README\.md"):
        store.ingest(adapter)
    assert store.leftovers() == ()


POINTS = ["content.after_copy", "content.before_rename", "content.after_rename", "content.after_unlink"]
SCRIPT = """
import sys
from pathlib import Path
from loractl_registry.content import ContentStore
store = ContentStore(Path(sys.argv[1]))
ingested = store.ingest(Path(sys.argv[2]))
ingested.publish()
ingested.discard()
store.remove(ingested.manifest.digest)
"""


@pytest.mark.parametrize("point", POINTS)
def test_kill_leaves_a_whole_content_or_a_leftover_and_never_half(store, adapter, tmp_path, point):
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store.root), str(adapter)],
        env={**os.environ, "LORACTL_FAULT_AT": point},
        check=False,
    )
    manifest = ContentStore(tmp_path / "other").ingest(adapter).manifest

    assert killed.returncode == -9
    assert all(store.verify(digest, manifest) == () for digest in store.digests())
    for leftover in store.leftovers():
        store.remove_leftover(leftover)
    assert store.leftovers() == store.strays() == ()


def test_two_who_publish_the_same_bytes_both_succeed(store, adapter):
    first, second = store.ingest(adapter), store.ingest(adapter)

    assert first.publish() == second.publish()
    second.discard()

    assert store.verify(first.manifest.digest, first.manifest) == ()
    assert store.leftovers() == ()
