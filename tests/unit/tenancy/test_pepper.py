"""The pepper's file: who may read it, and that it is written once and whole."""

import os
import subprocess
import sys
import threading

import pytest

from loractl_registry.home_errors import ReadOnlyError
from loractl_registry.tenancy import (
    Pepper,
    PepperDamagedError,
    PepperNotFoundError,
    PepperPermissionsError,
    ensure_pepper,
    load_pepper,
    pepper_path,
)


def test_pepper_is_created_for_its_owner_alone(tmp_path):
    ensure_pepper(tmp_path)

    path = pepper_path(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(path.read_bytes()) == 32
    assert list(path.parent.iterdir()) == [path]


def test_pepper_is_the_same_ever_after(tmp_path):
    first = ensure_pepper(tmp_path).mac("x", b"y")

    assert ensure_pepper(tmp_path).mac("x", b"y") == load_pepper(tmp_path).mac("x", b"y") == first


def test_peppers_of_two_homes_differ(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    assert ensure_pepper(tmp_path / "a").mac("x", b"") != ensure_pepper(tmp_path / "b").mac("x", b"")


def test_two_who_create_it_at_once_get_the_same(tmp_path):
    macs, start = [], threading.Barrier(8)

    def create():
        start.wait()
        macs.append(ensure_pepper(tmp_path).mac("x", b"y"))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(macs) == 8
    assert len(set(macs)) == 1


def test_purposes_do_not_mix():
    pepper = Pepper(bytes(32))

    assert len({pepper.mac("a", b"bc"), pepper.mac("ab", b"c"), pepper.mac("abc", b"")}) == 3


def test_missing_pepper_is_named(tmp_path):
    with pytest.raises(PepperNotFoundError, match="api-pepper"):
        load_pepper(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_pepper_that_others_may_use_is_refused(tmp_path, mode):
    ensure_pepper(tmp_path)
    pepper_path(tmp_path).chmod(mode)

    with pytest.raises(PepperPermissionsError, match=f"{mode:04o}"):
        ensure_pepper(tmp_path)


@pytest.mark.parametrize("size", [0, 31, 33, 100])
def test_pepper_of_another_length_is_refused(tmp_path, size):
    ensure_pepper(tmp_path)
    pepper_path(tmp_path).write_bytes(b"s" * size)

    with pytest.raises(PepperDamagedError) as caught:
        load_pepper(tmp_path)

    assert "sss" not in str(caught.value)


def test_pepper_that_is_no_file_is_refused(tmp_path):
    pepper_path(tmp_path).parent.mkdir()
    os.mkfifo(pepper_path(tmp_path), 0o600)

    with pytest.raises(PepperDamagedError):
        load_pepper(tmp_path)


def test_home_that_is_missing_is_a_refusal_of_the_registry(tmp_path):
    with pytest.raises(Exception, match="absent") as caught:
        ensure_pepper(tmp_path / "absent")

    assert caught.value.code.startswith("registry.")


@pytest.mark.parametrize(("error", "refusal"), [(PermissionError(13, "no"), ReadOnlyError)])
def test_pepper_that_cannot_be_read_is_a_refusal_of_the_registry(tmp_path, monkeypatch, error, refusal):
    def refuse(*_):
        raise error

    monkeypatch.setattr("loractl_registry.tenancy.pepper.read_small", refuse)

    with pytest.raises(refusal):
        load_pepper(tmp_path)


def test_full_disk_leaves_no_half_pepper(tmp_path):
    command = (
        "import resource, signal, sys; from pathlib import Path;"
        "from loractl_registry.tenancy import ensure_pepper; from loractl_registry.home_errors import DiskFullError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))\n"
        "try: ensure_pepper(Path(sys.argv[1]))\n"
        "except DiskFullError: print('full')"
    )

    answer = subprocess.run([sys.executable, "-c", command, str(tmp_path)], capture_output=True, text=True)

    assert answer.stdout == "full\n", answer.stderr
    assert list(pepper_path(tmp_path).parent.iterdir()) == []


def test_pepper_has_32_bytes():
    with pytest.raises(ValueError, match="32"):
        Pepper(b"short")
