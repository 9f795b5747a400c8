"""Runs of several engines, each a process of its own with a log of its own."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rows import fill_best_base

ENGINE = Path(__file__).resolve().with_name("engine.py")
_POLL_S = 0.2


def run_all(options: argparse.Namespace) -> int:
    """Measure engines one after the other; one that fails is said loudly and does not stop the rest.

    With `options.together` all start at once, which takes hardly longer than one start, and each waits for its turn.
    The first turn comes once every engine has started, failed or been stopped: a start beside it would be measured too.

    The engine `vllm` of a model writes the answers that the engine `loractl` of the same model is held to, so it goes
    first. At the end each row of the run is told the best engine without LoRA.
    """
    options.logs.mkdir(parents=True, exist_ok=True)
    engines = sorted(options.engines, key=_turn)
    models = {model for model, name in (engine.split(":")[:2] for engine in engines) if name == "vllm"}
    measure = _measure_together if options.together else _measure_alone
    failed = measure(engines, options, models)
    if options.out.exists():
        fill_best_base(options.out, options.run_id)
    return _end(failed, f"run {options.run_id}: {len(options.engines) - len(failed)} engines in {options.out}")


def _measure_alone(engines: list[str], options: argparse.Namespace, models: set[str]) -> list[str]:
    """Start and measure one engine after the other; return those that failed."""
    return [engine for engine in engines if _finish(engine, _start(engine, options, models), options)]


def _measure_together(engines: list[str], options: argparse.Namespace, models: set[str]) -> list[str]:
    """Start all engines, then measure them one after the other; return those that failed.

    The timeout holds for the start, and for each measurement anew from its turn on.
    """
    started = [(engine, _start(engine, options, models)) for engine in engines]
    failed = []
    try:
        late = _wait_for_starts(started, options)
        failed += [engine for engine, process in late if _finish(engine, process, options, timeout=0)]
        for engine, process in started:
            if (engine, process) in late:
                continue
            _turn_file(engine, options).touch()
            if _finish(engine, process, options):
                failed.append(engine)
    finally:
        # They live in sessions of their own, where an interrupt of this process does not reach them.
        for _, process in started:
            _end_group(process)
    return failed


def _wait_for_starts(
    started: list[tuple[str, subprocess.Popen[bytes]]], options: argparse.Namespace
) -> list[tuple[str, subprocess.Popen[bytes]]]:
    """Wait until each engine says that it has started or has ended; return those that have not started in time."""
    deadline = time.monotonic() + options.timeout
    late = started
    while late:
        late = [(engine, process) for engine, process in late if not _ready_file(engine, options).exists()]
        if time.monotonic() > deadline or all(process.poll() is not None for _, process in late):
            break
        time.sleep(_POLL_S)
    return late


def _start(engine: str, options: argparse.Namespace, models: set[str]) -> subprocess.Popen[bytes]:
    """Start an engine that will be measured; `models` are those whose own kernels write answers in this run."""
    model, name = engine.split(":")[:2]
    extra, reference = ["--metrics", options.metrics], options.logs / f"gate-{model}-{options.run_id}.json"
    if name != "base" and model in models:
        extra += ["--gate", str(reference)]
    elif name == "loractl":
        _say(f"*** {engine}: no answers of {model}:vllm in this run, so its own are held to nothing")
    if options.together:
        extra += ["--ready", str(_ready_file(engine, options)), "--turn", str(_turn_file(engine, options))]
    line = command(engine, options, extra, kv_gib=options.kv_gib, utilization=options.utilization)
    return subprocess.Popen(line, start_new_session=True)


def _turn_file(engine: str, options: argparse.Namespace) -> Path:
    return Path(options.logs / f"turn-{engine.replace(':', '-')}-{options.run_id}")


def _ready_file(engine: str, options: argparse.Namespace) -> Path:
    return Path(options.logs / f"ready-{engine.replace(':', '-')}-{options.run_id}")


def warm(options: argparse.Namespace) -> int:
    """Start engines at once, `options.concurrent` at a time, and let each answer the gate and no more."""
    options.logs.mkdir(parents=True, exist_ok=True)
    options.out, options.adapters = options.logs / "warm.jsonl", min(2, options.adapters)
    with ThreadPoolExecutor(max(1, options.concurrent)) as pool:
        codes = pool.map(
            lambda engine: _run(engine, options, ["--metrics", ""], kv_gib=2.0, utilization=0.02), options.engines
        )
        failed = [engine for engine, code in zip(options.engines, codes, strict=True) if code]
    return _end(failed, f"warm: {len(options.engines) - len(failed)} engines started")


def command(
    engine: str, options: argparse.Namespace, extra: list[str], *, kv_gib: float, utilization: float
) -> list[str]:
    """Return the command line of one engine, ``MODEL:ENGINE[:MOE_BACKEND]``."""
    model, name, *backend = engine.split(":")
    line = [sys.executable, str(ENGINE), "run", "--model", model, "--engine", name, *extra]
    line += ["--log", str(options.logs / f"{engine.replace(':', '-')}.log"), "--kv-gib", str(kv_gib)]
    line += ["--utilization", str(utilization), *(["--moe-backend", backend[0]] if backend else [])]
    for option in ("layers", "adapters", "max_loras", "out", "data", "tokens", "reps", "time_budget", "gate_bound"):
        line += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    return [*line, "--run-id", options.run_id, *(["--fast"] if options.fast else [])]


def _run(engine: str, options: argparse.Namespace, extra: list[str], *, kv_gib: float, utilization: float) -> int:
    line = command(engine, options, extra, kv_gib=kv_gib, utilization=utilization)
    return _finish(engine, subprocess.Popen(line, start_new_session=True), options)


def _finish(
    engine: str, process: subprocess.Popen[bytes], options: argparse.Namespace, timeout: float | None = None
) -> int:
    """Wait for an engine, end what is left of it, say how it went and return its exit status.

    Args:
        engine: Its name.
        process: Its process.
        options: Of the run.
        timeout: Seconds to wait for it; None for those of the run.
    """
    start = time.monotonic()
    try:
        code = process.wait(timeout=options.timeout if timeout is None else timeout)
        why = f"exit status {code}"
    except subprocess.TimeoutExpired:
        code, why = 124, f"stopped after {options.timeout:.0f} s"
    finally:
        _end_group(process)
    if code:
        log = options.logs / f"{engine.replace(':', '-')}.log"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] if log.exists() else []
        _say("\n".join([*(f"    {text}" for text in tail), f"*** FAILED: {engine}: {why}; log {log}"]))
    _say(f"{engine}: {time.monotonic() - start:.0f} s in all")
    return code


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the engine's own session: its workers hold memory of the GPU."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _turn(engine: str) -> tuple[str, int]:
    model, name = engine.split(":")[:2]
    return model, ("base", "vllm", "loractl").index(name)


def _end(failed: list[str], text: str) -> int:
    _say(text + (f"\n*** FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
