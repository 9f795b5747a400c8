"""``loractl top`` over a server: documents, tables, and the screen on a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import LORACTL, Terminal, clean_environment
from support.live import BOT, POET, STATE_PATH, LiveServer, LiveState

from loractl.engine.plan import Device, plan_engine
from loractl.observability.live_state import AdapterFacts, HealthFacts
from loractl.observability.state_document import parse_state
from loractl.serving.state import RunState, process_start, remove_state, write_state
from loractl_registry import Registry


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch):
    """What a machine has must not show in what is compared."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def announce(lived_in):
    """Say to whoever looks that this very process serves the base on that port."""

    def write(port: int) -> None:
        with Registry.open(lived_in) as registry:
            plan = plan_engine(registry.snapshot("tiny-moe"), device=Device.CPU, max_adapters=None, max_rank=None)
        started = process_start(os.getpid())
        assert started is not None
        write_state(lived_in, RunState(os.getpid(), started, "127.0.0.1", port, "tiny-moe", plan))

    return write


@pytest.fixture
def server(announce):
    """A server with some traffic in each second."""
    with closing(Busy()) as opened:
        announce(opened.port)
        yield opened


class Busy(LiveServer):
    """Answers requests of both adapters before each look."""

    def _answer(self, path, authorization):
        with self.lock:
            self.state.serve(BOT, times=4, first_s=0.25)
            self.state.serve(POET, times=2, first_s=0.75)
        return super()._answer(path, authorization)


@pytest.fixture
def locked(announce):
    with closing(LiveServer(key="right-key")) as opened:
        announce(opened.port)
        yield opened


@pytest.fixture
def key_file(lived_in):
    path = lived_in / "run" / "operator.key"

    def write(text: str, *, mode: int = 0o600) -> Path:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def screen(lived_in):
    def start(*argv: str, columns: int = 160, **environment: str) -> Terminal:
        return Terminal([*LORACTL, "top", *argv], clean_environment(lived_in, **environment), columns=columns)

    return start


def row_of(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(name)).split()


def test_once_shows_one_table_with_rates(cli, server):
    result = cli("top", "--once", "--interval", "100ms")

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("tiny-moe  ok  fairness vtc  slots 1/4  kv cache 25%")
    assert row_of(result.out, "support-bot@3") == [
        *("support-bot@3", "live", "yes", "2", "80", "275ms", "348ms", "0%", "0", "0", "40%")
    ]
    assert row_of(result.out, "poet@1")[1:5] == ["approved", "1", "40", "625ms"]
    assert row_of(result.out, "acme")[-4:] == ["400", "of", "1000", "tok/min"]
    assert len(server.asked(STATE_PATH)) == 2


def test_once_as_json_is_what_the_server_says(cli, server):
    result = cli("top", "--json", "--once")

    assert (result.code, result.err) == (0, "")
    assert result.data["base"]["name"] == "tiny-moe"
    assert result.data["gpus"] == []
    assert parse_state(result.out.encode()).totals.requests == 6


def test_document_and_refusal_have_the_keys_that_they_had(cli, announce, golden):
    refused = cli("top", "--json")
    state = LiveState()
    state.serve(BOT, times=2)
    with closing(LiveServer(state)) as server:
        announce(server.port)
        told = cli("top", "--json", "--once")

    golden("error-no-server", refused.err)
    golden("top", told.out)


@pytest.mark.parametrize(
    ("sort", "first"),
    [("tokens", "support-bot@3"), ("name", "poet@1"), ("latency", "poet@1"), ("rate", "support-bot@3")],
)
def test_sort_says_what_comes_first(cli, server, sort, first):
    out = cli("top", "--once", "--interval", "100ms", "--sort", sort).out

    names = [line.split()[0] for line in out.splitlines() if "@" in line]
    assert names[0] == first


def test_filter_keeps_the_names_that_hold_it(cli, server):
    out = cli("top", "--once", "--interval", "100ms", "--filter", "POET").out

    assert "poet@1" in out
    assert "support-bot@3" not in out
    assert "acme" not in out


def test_tables_follow_until_the_server_is_gone(lived_in, announce):
    server = Busy()
    announce(server.port)
    argv = [*LORACTL, "top", "--plain", "--interval", "100ms"]
    process = subprocess.Popen(
        argv, env=clean_environment(lived_in), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.wait_asked(STATE_PATH, 4)

    server.close()
    out, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert out.count("tiny-moe  ok") >= 2
    assert err.startswith(f"error: the server at {server.url} does not answer")


def test_server_that_ended_is_1(lived_in, server):
    argv = [*LORACTL, "top", "--json", "--interval", "100ms"]
    process = subprocess.Popen(
        argv, env=clean_environment(lived_in), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.wait_asked(STATE_PATH, 2)

    remove_state(lived_in, "tiny-moe")
    out, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert json.loads(err)["error"]["code"] == "top.server_ended"
    assert [json.loads(line)["base"]["name"] for line in out.splitlines()][:2] == ["tiny-moe"] * 2


def test_documents_end_when_nobody_reads_them(lived_in, server):
    argv = [*LORACTL, "top", "--json", "--interval", "100ms"]
    process = subprocess.Popen(
        argv, env=clean_environment(lived_in), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["format"] == 1

    process.stdout.close()

    assert (process.wait(30), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_without_a_server_it_is_4(cli, lived_in):
    result = cli("top", "--json")

    assert (result.code, result.out, result.error["code"]) == (4, "", "top.no_server")
    assert result.error["hint"] == "start one: loractl serve BASE"
    assert cli("top", "tiny-moe").code == 4


def test_several_servers_have_to_be_told_apart(cli, lived_in, server):
    state = json.loads((lived_in / "run" / "tiny-moe.json").read_text())
    (lived_in / "run" / "other.json").write_text(json.dumps(state | {"base": "other"}))

    result = cli("top", "--once", "--json")

    assert (result.code, result.error["code"]) == (2, "top.several_servers")
    assert "other, tiny-moe" in result.error["message"]
    assert cli("top", "tiny-moe", "--once", "--json").code == 0


def test_closed_port_is_1(cli, announce):
    gone = LiveServer()
    gone.close()
    announce(gone.port)

    result = cli("top", "--json", "--once")

    assert (result.code, result.error["code"]) == (1, "top.no_answer")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"format": 2}'])
def test_answer_that_is_no_state_is_1(cli, server, body):
    server.body = body

    result = cli("top", "--json", "--once")

    assert (result.code, result.out, result.error["code"]) == (1, "", "observability.state_unreadable")


def test_server_without_a_state_is_1(cli, server):
    server.status = 404

    assert cli("top", "--json", "--once").error["message"].endswith("answers 404 to /loractl/v1/state")


def test_key_comes_from_the_file_of_the_server(cli, locked, key_file):
    key_file("right-key\n")

    assert cli("top", "--json", "--once").code == 0
    assert [each.authorization for each in locked.asked(STATE_PATH)] == ["Bearer right-key"]


def test_key_of_the_environment_comes_first(cli, locked, key_file, monkeypatch):
    key_file("wrong-key")
    monkeypatch.setenv("LORACTL_OPERATOR_KEY", "right-key")

    assert cli("top", "--json", "--once").code == 0


@pytest.mark.parametrize(("has_key", "said"), [(False, "wants"), (True, "does not accept")])
def test_refused_key_is_3_and_is_not_told(cli, locked, key_file, has_key, said):
    if has_key:
        key_file("wrong-key")

    result = cli("top", "--once")

    assert (result.code, result.out) == (3, "")
    assert said in result.err
    assert "wrong-key" not in result.err


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_key_that_others_can_reach_is_refused(cli, locked, key_file, mode):
    path = key_file("right-key", mode=mode)

    result = cli("top", "--json", "--once")

    assert (result.code, result.error["code"]) == (3, "top.key_file")
    assert f"chmod 600 {path}" in result.error["hint"]
    assert locked.asked(STATE_PATH) == []


@pytest.mark.parametrize("text", ["", "\n", "two words", "x" * 600, "cl\u00e9", "a\nb"])
def test_file_that_holds_no_key_is_refused(cli, locked, key_file, text):
    key_file(text)

    result = cli("top", "--json", "--once")

    assert (result.code, result.error["code"]) == (3, "top.key_file")
    assert locked.asked(STATE_PATH) == []


def test_link_or_pipe_in_place_of_the_key_is_refused(cli, locked, key_file, lived_in, tmp_path):
    path = key_file("right-key")
    elsewhere = path.rename(tmp_path / "elsewhere")
    for place in (lambda: path.symlink_to(elsewhere), lambda: os.mkfifo(path, 0o600)):
        place()

        assert cli("top", "--json", "--once").error["code"] == "top.key_file"
        path.unlink()


def test_key_of_the_environment_that_is_none_is_2_and_is_not_told(cli, locked, monkeypatch):
    monkeypatch.setenv("LORACTL_OPERATOR_KEY", "two\r\nwords")

    result = cli("top", "--once")

    assert result.code == 2
    assert "two" not in result.err


def test_no_proxy_sees_the_key(cli, locked, monkeypatch):
    monkeypatch.setenv("LORACTL_OPERATOR_KEY", "right-key")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert cli("top", "--json", "--once").code == 0


def test_answer_that_leads_elsewhere_is_not_followed(cli, server):
    server.status = 302

    assert cli("top", "--json", "--once").error["code"] == "top.no_answer"


@pytest.mark.parametrize("interval", ["0", "99ms", "61m", "-1", "1h", "nan", "soon", "1e3", "٣s"])
def test_interval_that_is_none_is_2(cli, lived_in, interval):
    assert cli("top", "--interval", interval).code == 2


@pytest.mark.parametrize(("interval", "seconds"), [("500ms", 0.5), ("2", 2.0), ("0.25 s", 0.25), ("1m", 60.0)])
def test_interval_is_read_as_written(interval, seconds):
    from loractl.cli.top import parse_interval

    assert parse_interval(interval) == seconds


def test_names_cannot_act_on_the_terminal(cli, server):
    server.state.adapters = [AdapterFacts("bad\x1b[2J\u202e", 1, "live\x1b[0m")]
    server.state.health = HealthFacts("ok\x07", "\x1b]0;title\x07")

    out = cli("top", "--once", "--interval", "100ms").out

    assert "\x1b" not in out
    assert "\x07" not in out
    assert "bad\\x1b[2J\\u202e@1" in out


def test_screen_shows_what_moves_and_q_ends_it(screen, server):
    session = screen("--interval", "100ms")

    session.expect("support-bot@3")
    session.expect("80")
    session.expect("q quit")
    session.send("q")

    assert session.wait() == 0


def test_screen_sorts_filters_and_pauses(screen, server):
    session = screen("--interval", "100ms")
    session.expect("s sort: tokens")

    session.send("s")
    session.expect("s sort: rate")
    session.send("/po")
    session.expect("filter: po_")
    session.send("\r")
    session.expect("/ filter: po")
    session.send("p")
    session.expect("paused")
    session.send("\x1b[Ap")
    session.expect("p pause")
    session.send("q")

    assert session.wait() == 0


def test_screen_waits_for_a_server_that_goes(screen, announce):
    first = Busy()
    announce(first.port)
    session = screen("--interval", "100ms")
    session.expect("support-bot@3")

    first.close()
    session.expect("does not answer")
    with closing(Busy()) as second:
        second.state.adapters = [AdapterFacts("newcomer", 7, "live")]
        announce(second.port)
        session.expect("newcomer@7")
        session.send("q")

        assert session.wait() == 0


def test_screen_without_a_server_is_4_and_leaves_the_terminal_alone(screen):
    session = screen()

    assert session.wait() == 4
    assert "no server runs on" in " ".join(session.text.split())
    assert "\x1b[?1049h" not in session.raw


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param("q", 0, id="q"),
        pytest.param("\x03", 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, id="sigterm"),
        pytest.param(signal.SIGHUP, 129, id="sighup"),
        pytest.param("key", 3, id="an-error"),
    ],
)
def test_terminal_is_what_it_was_after_every_end(screen, server, end, code):
    session = screen("--interval", "100ms")
    before = termios.tcgetattr(session._fd)
    session.expect("q quit")
    assert not termios.tcgetattr(session._fd)[3] & (termios.ICANON | termios.ECHO)

    if end == "key":
        server.key = "another"
    elif isinstance(end, str):
        session.send(end)
    else:
        os.kill(session._pid, end)
    after = []
    watcher = threading.Thread(target=lambda: after.append(mode_after(session._fd, before)))
    watcher.start()
    assert session.wait() == code
    watcher.join(20)

    assert after == [before]
    assert session.raw.rfind("\x1b[?1049l") > session.raw.rfind("\x1b[?1049h") >= 0
    assert session.raw.rfind("\x1b[?25h") > session.raw.rfind("\x1b[?25l") >= 0


def mode_after(descriptor, before):
    """Return the mode once it is `before` again, or what it was last."""
    deadline, mode = time.monotonic() + 15, None
    while mode != before and time.monotonic() < deadline:
        try:
            mode = termios.tcgetattr(descriptor)
        except (OSError, termios.error):
            return mode
        time.sleep(0.001)
    return mode


def test_ctrl_z_does_not_leave_a_strange_terminal_behind(screen, server):
    session = screen("--interval", "100ms")
    session.expect("q quit")

    session.send("\x1a")
    asked = len(server.asked(STATE_PATH))
    server.wait_asked(STATE_PATH, asked + 3)
    session.send("q")

    assert session.wait() == 0


def test_terminal_that_cannot_move_gets_tables(screen, server):
    session = screen("--interval", "100ms", TERM="dumb")

    session.expect("support-bot@3")
    session.send("\x03")

    assert session.wait() == 130
    assert "\x1b" not in session.raw


def test_screen_fits_a_small_terminal(screen, server):
    server.state.adapters = [AdapterFacts("support-bot", number, "approved") for number in range(1, 200)]
    session = screen("--interval", "100ms", columns=60)

    session.expect("more)")
    session.expect("q quit")
    session.send("q")

    assert session.wait() == 0
    assert max(map(len, session.text.split("\n"))) <= 60 * 40


def test_state_of_nobody_is_shown(cli, announce):
    state = LiveState()
    state.adapters, state.tenants = (), ()
    with closing(LiveServer(state)) as server:
        announce(server.port)

        out = cli("top", "--once", "--interval", "100ms").out

    assert [line.split()[0] for line in out.splitlines() if line][2:] == ["adapter", "tiny-moe"]
