"""kill -9 at every named point and at random moments: nothing acknowledged is lost, nothing half done is visible."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import registry_worker
from support.registry import assert_consistent, write_adapter, write_base
from support.tampering import made_older

from loractl_registry import Ref, Registry, Stage
from loractl_registry._faults import FAULT_VARIABLE

ROUNDS = int(os.environ.get("LORACTL_CRASH_ROUNDS", "8"))
BOT = Ref("bot", 1)


@pytest.fixture
def adapters(tmp_path):
    for seed in range(10):
        write_adapter(tmp_path / "adapters" / str(seed), seed=seed)
    return tmp_path / "adapters"


def start(home, adapters, verb, *words, fault=None):
    environment = os.environ | ({FAULT_VARIABLE: fault} if fault else {})
    command = [sys.executable, registry_worker.__file__, str(home), str(adapters), verb, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def prepare(home, adapters, verb):
    write_base(adapters / "base")
    with Registry.open(home) as registry:
        if verb == "admit":
            return registry.history()
        registry.add_base("tiny-moe", str(adapters / "base"), actor="ada")
        if verb == "first":
            made_older(home)
            return registry.history()
        registry.add("bot", str(adapters / "0"), actor="ada")
        if verb == "import":
            registry.add("bot", str(adapters / "1"), actor="ada")
            registry.export([BOT, Ref("bot", 2)], adapters / "bots.tar")
        if verb == "revoke":
            registry.promote(BOT, actor="ada", to=Stage.LIVE)
        if verb == "gc":
            registry.promote(BOT, actor="ada")
            registry.reject(BOT, actor="ada", reason="x")
        return registry.history()


def mend(registry):
    registry.fsck(repair=True, actor="ada")
    assert registry.fsck(repair=False, actor="ada").findings == ()
    assert registry.identities.verify().problems == ()


POINTS = [
    ("add", "content.after_copy", False),
    ("add", "content.before_rename", False),
    ("add", "content.after_rename", False),
    ("add", "add.after_rename", False),
    ("add", "add.before_commit", False),
    ("add", "add.after_commit", True),
    ("promote", "promote.before_commit", False),
    ("admit", "sign.before_root", False),
    ("admit", "sign.after_root", False),
    ("admit", "sign.after_commit", True),
    ("add", "sign.after_commit", True),
    ("first", "sign.before_root", False),
    ("first", "sign.after_root", False),
    ("first", "add.before_commit", False),
    ("first", "sign.after_commit", True),
    ("promote", "sign.after_commit", True),
    ("revoke", "lifecycle.before_commit", False),
    ("revoke", "sign.after_commit", True),
    ("gc", "gc.after_commit", True),
    ("gc", "gc.after_remove", True),
    ("gc", "content.after_unlink", True),
]


@pytest.mark.parametrize(("verb", "point", "is_done"), POINTS, ids=[f"{verb}-{point}" for verb, point, _ in POINTS])
def test_kill_leaves_all_or_nothing(tmp_path, adapters, verb, point, is_done):
    home = tmp_path / "home"
    before = prepare(home, adapters, verb)
    killed = start(home, adapters, verb, fault=point)
    out, err = killed.communicate(timeout=60)

    assert (killed.returncode, out) == (-signal.SIGKILL, "ready\n"), err
    with Registry.open(home) as registry:
        assert (registry.history() != before) == is_done
        assert_consistent(registry)
        mend(registry)
        assert_consistent(registry)
    again = start(home, adapters, verb)
    assert again.communicate(timeout=60)[1] == ""
    assert again.returncode == 0
    with Registry.open(home) as registry:
        assert_consistent(registry)
        assert registry.fsck(repair=False, actor="ada").findings == ()


@pytest.mark.parametrize(
    ("point", "is_done"),
    [
        ("content.after_copy", False),
        ("import.before_publish", False),
        ("add.after_rename", False),
        ("import.before_commit", False),
        ("import.after_commit", True),
    ],
)
def test_killed_import_is_all_or_nothing(tmp_path, adapters, point, is_done):
    prepare(tmp_path / "home", adapters, "import")
    home = tmp_path / "elsewhere"

    killed = start(home, adapters, "import", fault=point)
    killed.communicate(timeout=60)

    assert killed.returncode == -signal.SIGKILL
    with Registry.open(home) as registry:
        assert len(registry.versions()) == (2 if is_done else 0)
        mend(registry)
        assert len(registry.import_archive(adapters / "bots.tar", actor="ada")) == 2
        assert_consistent(registry)
        assert registry.fsck(repair=False, actor="ada").findings == ()


def test_kill_at_random_loses_nothing_acknowledged(tmp_path, adapters):
    home = tmp_path / "home"
    prepare(home, adapters, "add")
    known = {"bot@1"}
    revoked = set()

    for _ in range(ROUNDS):
        worker = start(home, adapters, "churn")
        assert worker.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0.01, 0.5))
        worker.kill()
        out, _ = worker.communicate(timeout=60)
        told = [line.split() for line in out.splitlines()]
        known |= {words[1] for words in told if words[0] in ("added", "promoted", "rolled-back")}
        revoked |= {words[1] for words in told if words[0] == "revoked"}

        with Registry.open(home) as registry:
            assert_consistent(registry)
            versions = {str(version.ref): version.stage for version in registry.versions()}
            assert known <= set(versions)
            assert all(versions[ref] is Stage.REVOKED for ref in revoked)
            mend(registry)
            assert_consistent(registry)


def test_processes_at_once_leave_one_story(tmp_path, adapters):
    home = tmp_path / "home"
    prepare(home, adapters, "add")

    workers = [start(home, adapters, "race", name) for name in ("one", "two", "one")]
    told = [worker.communicate(timeout=240) for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0, 0], told
    with Registry.open(home) as registry:
        assert_consistent(registry)
        refs = {str(version.ref) for version in registry.versions()}
        acknowledged = {line.split()[1] for out, _ in told for line in out.splitlines() if line.startswith("added ")}
        assert acknowledged <= refs
        assert registry.fsck(repair=False, actor="ada").findings == ()


def test_first_additions_by_many_processes_at_once_make_one_identity(tmp_path, adapters):
    home = tmp_path / "home"
    prepare(home, adapters, "first")

    workers = [start(home, adapters, "first", name) for name in ("one", "two", "three")]
    told = [worker.communicate(timeout=60) for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0, 0], told
    with Registry.open(home) as registry:
        assert [one.name for one in registry.identities.select()] == ["worker"]
        assert registry.identities.verify().problems == ()
        assert_consistent(registry)


def test_first_opening_by_many_processes_at_once_works(tmp_path, adapters):
    workers = [start(tmp_path / "home", adapters, "gc") for _ in range(4)]

    told = [worker.communicate(timeout=60) for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 4, told
    assert Path(tmp_path / "home/registry.db").is_file()
