"""A home that is locked, full, read-only or damaged: a clear error, nothing stored, nothing lost."""

import errno
import os
import resource
import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.registry import assert_consistent, write_adapter

from loractl_registry import Ref, Registry, RegistryError
from loractl_registry._store import database
from loractl_registry.home_errors import (
    DamagedDatabaseError,
    DiskFullError,
    LockedError,
    ReadOnlyError,
    StorageError,
    os_errors_named,
)

NOBODY = 65534


@contextmanager
def held(home):
    """Another process in the middle of its write transaction."""
    connection = sqlite3.connect(home / "registry.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


@contextmanager
def as_somebody_without_rights():
    """Root may write everywhere, so the tests step down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_locked_home_is_a_conflict_and_nothing_is_stored(registry, add, home, tmp_path):
    add()
    folder = str(write_adapter(tmp_path / "new", seed=5))
    before = registry.history()

    with held(home):
        for act in (
            lambda: registry.add("bot", folder, actor="ada"),
            lambda: registry.promote(Ref("bot", 1), actor="ada"),
            lambda: registry.revoke(Ref("bot", 1), actor="ada", reason="x"),
            lambda: registry.gc(dry_run=False),
        ):
            with pytest.raises(LockedError) as caught:
                act()
            assert caught.value.code == "registry.locked"
        assert registry.history() == before

    assert registry.fsck(repair=False, actor="ada").findings == ()
    assert_consistent(registry)


def test_full_disk_in_the_database_stores_nothing(registry, add, tmp_path):
    add()
    with registry._context.database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for seed in range(50):
            add("bot", seed + 10)

    with pytest.raises(DiskFullError) as caught:
        fill()

    assert caught.value.hint
    assert_consistent(registry)
    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_full_disk_while_copying_stores_nothing(registry, base, tmp_path):
    folder = str(write_adapter(tmp_path / "a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (800, hard))
    try:
        with pytest.raises(DiskFullError) as caught:
            registry.add("bot", folder, actor="ada")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert "adapter_model.safetensors" in str(caught.value)
    assert registry.versions() == ()
    assert registry.fsck(repair=False, actor="ada").findings == ()


@pytest.fixture
def public():
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_home_that_cannot_be_created_is_read_only(public):
    public.chmod(0o555)

    with as_somebody_without_rights(), pytest.raises(ReadOnlyError) as caught:
        Registry.open(public / "home")

    assert str(public) in str(caught.value)
    assert "LORACTL_HOME" in caught.value.hint


def test_home_that_cannot_be_written_is_read_only(public):
    with Registry.open(public / "home"):
        pass
    (public / "home").chmod(0o555)
    (public / "home/registry.db").chmod(0o444)

    with as_somebody_without_rights(), pytest.raises(ReadOnlyError) as caught:
        Registry.open(public / "home").bases()

    assert "registry.db" in str(caught.value)
    (public / "home").chmod(0o755)


def test_truncated_database_is_damaged_and_names_the_backup(registry, add, home):
    for seed in range(3):
        add("bot", seed)
    registry.close()
    data = (home / "registry.db").read_bytes()
    (home / "registry.db").write_bytes(data[: len(data) // 2])

    def use():
        with Registry.open(home) as opened:
            opened.fsck(repair=False, actor="ada")
            opened.versions()

    with pytest.raises(DamagedDatabaseError) as caught:
        use()

    assert "backup" in caught.value.hint


def test_closing_twice_is_harmless(registry):
    registry.close()
    registry.close()

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        registry.bases()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_BUSY, LockedError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, LockedError),
        (sqlite3.SQLITE_LOCKED, LockedError),
        (sqlite3.SQLITE_FULL, DiskFullError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, ReadOnlyError),
        (sqlite3.SQLITE_CANTOPEN, ReadOnlyError),
        (sqlite3.SQLITE_PERM, ReadOnlyError),
        (sqlite3.SQLITE_NOTADB, DamagedDatabaseError),
        (sqlite3.SQLITE_CORRUPT_INDEX, DamagedDatabaseError),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageError),
        (0, StorageError),
    ],
)
def test_every_answer_of_sqlite_has_its_error(code, expected):
    error = sqlite3.OperationalError("said")
    error.sqlite_errorcode = code

    refusal = database.refusal_of(error, Path("/h/registry.db"))

    assert type(refusal) is expected
    assert "/h/registry.db" in str(refusal)
    assert refusal.hint


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EROFS, ReadOnlyError),
        (errno.EACCES, ReadOnlyError),
        (errno.EIO, StorageError),
    ],
)
def test_every_answer_of_the_system_has_its_error(number, expected):
    with pytest.raises(RegistryError) as caught, os_errors_named(Path("/h/store")):
        raise OSError(number, os.strerror(number))

    assert type(caught.value) is expected
    assert "/h/store" in str(caught.value)
