import sys
from argparse import Namespace
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "kernels" / "benchmarks"
FAKE = """
import sys, time
from pathlib import Path

given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
engine = f"{given['--model']}:{given['--engine']}"
backend = given.get("--moe-backend", "")
events = Path(given["--out"]).with_name("events")

def say(event):
    with events.open("a") as stream:
        stream.write(f"{event} {engine}\\n")

if backend == "broken":
    sys.exit(3)
if backend == "slow":
    time.sleep(1.0)
if backend == "hangs":
    time.sleep(600)
say("started")
if "--ready" in given:
    Path(given["--ready"]).touch()
    while not Path(given["--turn"]).exists():
        time.sleep(0.01)
if backend == "stuck":
    time.sleep(600)
say("measures")
"""


@pytest.fixture
def processes(monkeypatch, tmp_path):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    import engine_processes

    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE)
    monkeypatch.setattr(engine_processes, "ENGINE", script)
    yield engine_processes
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def options(folder, *engines, together=True, timeout=30.0):
    return Namespace(
        engines=list(engines),
        logs=folder / "logs",
        together=together,
        timeout=timeout,
        metrics="",
        layers=1,
        adapters=1,
        max_loras=1,
        out=folder / "rows.jsonl",
        data=folder / "data",
        tokens=1,
        reps=1,
        kv_gib=1.0,
        utilization=0.1,
        time_budget=1.0,
        gate_bound=1.0,
        fast=False,
        run_id="run",
    )


def events(folder):
    return (folder / "events").read_text().splitlines()


def test_engine_measures_once_all_have_started(processes, tmp_path):
    code = processes.run_all(options(tmp_path, "gptoss:base", "gptoss:vllm:slow", "qwen:base"))

    assert code == 0
    assert {event.split()[0] for event in events(tmp_path)[:3]} == {"started"}
    assert events(tmp_path)[3:] == ["measures gptoss:base", "measures gptoss:vllm", "measures qwen:base"]


def test_engine_that_fails_to_start_holds_nobody_up(processes, tmp_path, capsys):
    code = processes.run_all(options(tmp_path, "gptoss:base:broken", "qwen:base"))

    assert code == 1
    assert events(tmp_path) == ["started qwen:base", "measures qwen:base"]
    assert "FAILED: gptoss:base:broken: exit status 3" in capsys.readouterr().out


def test_engine_that_does_not_start_in_time_is_stopped_before_the_first_turn(processes, tmp_path, capsys):
    code = processes.run_all(options(tmp_path, "gptoss:base", "qwen:base:hangs", timeout=2.0))

    out = capsys.readouterr().out
    assert code == 1
    assert events(tmp_path) == ["started gptoss:base", "measures gptoss:base"]
    assert out.index("FAILED: qwen:base:hangs: stopped after 2 s") < out.index("gptoss:base: 0 s in all")


def test_engine_that_is_stuck_in_its_turn_is_stopped_and_the_next_one_measures(processes, tmp_path, capsys):
    code = processes.run_all(options(tmp_path, "gptoss:base:stuck", "qwen:base", timeout=2.0))

    assert code == 1
    assert events(tmp_path)[-1] == "measures qwen:base"
    assert "FAILED: gptoss:base:stuck: stopped after 2 s" in capsys.readouterr().out


def test_interrupt_stops_the_engines_that_wait_for_their_turn(processes, tmp_path, monkeypatch):
    started = []
    start = processes._start

    def remembered(*given):
        started.append(start(*given))
        return started[-1]

    def interrupted(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "_start", remembered)
    monkeypatch.setattr(processes, "_finish", interrupted)

    with pytest.raises(KeyboardInterrupt):
        processes.run_all(options(tmp_path, "gptoss:base", "qwen:base"))

    assert [process.poll() is not None for process in started] == [True, True]


def test_engines_alone_start_one_after_the_other(processes, tmp_path):
    code = processes.run_all(options(tmp_path, "gptoss:base", "qwen:base", together=False))

    assert code == 0
    assert events(tmp_path) == [
        "started gptoss:base",
        "measures gptoss:base",
        "started qwen:base",
        "measures qwen:base",
    ]
