"""What a running server says about itself, and what dead ones no longer say."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine import cpu_plan
from support.serving import PREAMBLE, python

from loractl.serving.errors import AlreadyServedError
from loractl.serving.state import RunState, process_start, remove_state, running, sole_server, write_state

PLAN = cpu_plan(slots=2, host_slots=4, is_mixed=True)


def own_state(base: str = "tiny") -> RunState:
    return RunState(os.getpid(), process_start(os.getpid()) or "", "127.0.0.1", 8000, base, PLAN)


def test_written_state_is_read_back_whole(tmp_path: Path) -> None:
    write_state(tmp_path, own_state())

    assert running(tmp_path) == (own_state(),)
    assert own_state().url == "http://127.0.0.1:8000"


def test_state_file_is_for_the_owner_alone(tmp_path: Path) -> None:
    write_state(tmp_path, own_state())

    assert stat.S_IMODE((tmp_path / "run" / "tiny.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_home_without_servers_has_none(tmp_path: Path) -> None:
    assert running(tmp_path / "nowhere") == ()


def test_servers_can_be_asked_for_by_base(tmp_path: Path) -> None:
    write_state(tmp_path, own_state("a"))
    write_state(tmp_path, own_state("b.json"))

    assert [state.base for state in running(tmp_path, base="b.json")] == ["b.json"]


def test_removed_state_is_gone_and_removing_again_is_fine(tmp_path: Path) -> None:
    write_state(tmp_path, own_state())

    remove_state(tmp_path, "tiny")
    remove_state(tmp_path, "tiny")

    assert running(tmp_path) == ()


def test_state_of_an_ended_process_is_ignored_and_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = process_start(ended.pid) or ""
    ended.wait()
    write_state(tmp_path, replace(own_state(), pid=ended.pid, started=started))

    assert running(tmp_path) == ()
    assert not (tmp_path / "run" / "tiny.json").exists()


def test_state_of_another_process_with_the_same_number_is_ignored(tmp_path: Path) -> None:
    write_state(tmp_path, replace(own_state(), started="another-boot/1"))

    assert running(tmp_path) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "1", "started": "", "host": "", "port": 1}'])
def test_file_that_is_no_state_is_ignored(tmp_path: Path, text: str) -> None:
    write_state(tmp_path, own_state())
    (tmp_path / "run" / "tiny.json").write_text(text)

    assert running(tmp_path) == ()


def test_stale_state_stays_while_its_base_is_being_served_again(tmp_path: Path) -> None:
    write_state(tmp_path, replace(own_state(), started="another-boot/1"))

    with sole_server(tmp_path, "tiny"):
        assert running(tmp_path) == ()
        assert (tmp_path / "run" / "tiny.json").exists()


def test_second_server_of_a_base_is_refused_and_told_where_the_first_is(tmp_path: Path) -> None:
    with sole_server(tmp_path, "tiny"):
        write_state(tmp_path, own_state())
        with pytest.raises(AlreadyServedError, match=f"http://127.0.0.1:8000 by process {os.getpid()}"):
            sole_server(tmp_path, "tiny").__enter__()
        with sole_server(tmp_path, "other"):
            pass


def test_base_can_be_served_again_after_its_server_was_killed(tmp_path: Path) -> None:
    holder = PREAMBLE + (
        "from pathlib import Path\nfrom loractl.serving.state import sole_server\n"
        f"with sole_server(Path({str(tmp_path)!r}), 'tiny'):\n    say('held')\n    time.sleep(600)"
    )
    with subprocess.Popen(python(holder), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()

    with sole_server(tmp_path, "tiny"):
        pass
