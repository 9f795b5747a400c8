"""Time whole engines, with and without adapters: ``engine.py run | warm | all``.

`run` starts one engine in this process, checks its answers, measures it and appends rows to a file. `all` runs
several, one after the other, as one run. `warm` starts several at once with a small KV cache, to fill the caches of
compiled code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import engine_gate as gate
from engine_gate import Answer
from engine_measure import METRICS, STREAMS, Bench, Measurement, as_rows, compiled_kernels, jit_compiles
from engine_models import (
    ENGINES,
    FAST_GRAPHS,
    MODEL_NAMES,
    engine_environment,
    engine_kwargs,
    write_adapters,
    write_model,
)
from engine_processes import run_all, warm
from provenance import ROOT, provenance

from loractl.vllm_plugin.command import DECODE_GRAPHS, PREFILL_GRAPHS

_GIB = 1 << 30
RESULTS = ROOT / "kernels" / "benchmarks" / "results" / "engine.jsonl"


class Engine:
    """One vLLM engine with its adapters.

    Attributes:
        startup_s: Seconds from the constructor's call until it answered.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from vllm import LLM, SamplingParams  # takes seconds, and the process that it spawns reads this file too
        from vllm.lora.request import LoRARequest

        self._params = SamplingParams
        model = options.data / f"{options.model}-{options.layers}"
        write_model(model, options.model, options.layers)
        adapters = []
        if options.engine != "base":
            folder = options.data / f"{options.model}-{options.layers}-r{options.rank}"
            adapters = write_adapters(folder, options.model, options.layers, options.rank, options.adapters)
        self._adapters = [LoRARequest(path.name, at + 1, str(path)) for at, path in enumerate(adapters)]
        start = time.perf_counter()
        self._llm = LLM(model=str(model), **llm_kwargs(options))
        self.startup_s = time.perf_counter() - start
        self._llm.collective_rpc("widen_weights")

    def __call__(self, prompts: Any, adapters: Any, tokens: int) -> None:
        """Generate `tokens` tokens for each prompt, as `engine_measure.Requests` says."""
        self._generate(
            prompts, adapters, temperature=1.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False
        )

    def answers(self, prompt: list[int], adapters: list[int | None]) -> list[Answer]:
        """Return the answers to `prompt` of each adapter, all in one batch."""
        outputs = self._generate(
            [prompt] * len(adapters),
            adapters,
            temperature=0.0,
            max_tokens=gate.TOKENS,
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            prompt_logprobs=0,
        )
        return [_answer(adapter, prompt, output) for adapter, output in zip(adapters, outputs, strict=True)]

    def _generate(self, prompts: Any, adapters: Any, **sampling: Any) -> Any:
        lora = [None if adapter is None else self._adapters[adapter] for adapter in adapters]
        return self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            self._params(**sampling),
            lora_request=lora if any(lora) else None,
            use_tqdm=False,
        )


def _answer(adapter: int | None, prompt: list[int], output: Any) -> Answer:
    spoken = output.outputs[0]
    tokens = list(spoken.token_ids)
    return Answer(
        adapter,
        [output.prompt_logprobs[at][prompt[at]].logprob for at in range(1, len(prompt))],
        tokens,
        [spoken.logprobs[at][token].logprob for at, token in enumerate(tokens)],
    )


def llm_kwargs(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of vLLM's constructor."""
    chosen: dict[str, Any] = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "max_model_len": 8192,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 8192,
        "gpu_memory_utilization": options.utilization,
        "kv_cache_memory_bytes": int(options.kv_gib * _GIB),
        "enable_prefix_caching": False,
        "jit_monitor_verbose": True,
        "worker_extension_cls": "engine_worker.WideWeights",
        **engine_kwargs(options.model, options.engine),
    }
    if options.engine != "base":
        chosen |= {
            "enable_lora": True,
            "max_loras": options.max_loras,
            "max_lora_rank": options.rank,
            "max_cpu_loras": max(options.adapters, options.max_loras),
        }
    if options.moe_backend:
        chosen["moe_backend"] = options.moe_backend
    sizes = (*(FAST_GRAPHS if options.fast else DECODE_GRAPHS), *PREFILL_GRAPHS)
    chosen["compilation_config"] = {"cudagraph_capture_sizes": list(sizes)}  # of all engines, as `loractl serve` does
    if options.fast:
        chosen["enable_flashinfer_autotune"] = False
    return chosen


def run(options: argparse.Namespace) -> int:
    """Start one engine, check it, measure it and append its rows."""
    talk = _log_to(options.log)
    os.environ |= engine_environment(options.engine, fast=options.fast)
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    name = f"{MODEL_NAMES[options.model]}, {options.layers} layers, {options.engine}"
    try:
        _require_plugin(options.engine)
        engine = Engine(options)
        talk.write(f"{name}: started in {engine.startup_s:.1f} s\n")
        if options.ready is not None:
            options.ready.touch()
        _wait_for(options.turn)
        rows = _measured(engine, options, talk)
    except Exception as error:  # noqa: BLE001  (the end of the process: everything that went wrong is in the log)
        sys.excepthook(type(error), error, error.__traceback__)
        talk.write(f"{name}: FAILED, no rows: {type(error).__name__}: {error}\n  log: {options.log}\n")
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    talk.writelines(_line(row) for row in rows)
    return 0


def _wait_for(turn: Path | None) -> None:
    """Wait until it is this engine's turn, if others share the GPU."""
    while turn is not None and not turn.exists():
        time.sleep(0.2)


def _measured(engine: Engine, options: argparse.Namespace, talk: TextIO) -> list[dict[str, object]]:
    """Return the rows, once both gates are passed: one before the measurements, one after them on a long prompt."""
    count = 0 if options.engine == "base" else options.adapters
    deadline = time.perf_counter() + options.time_budget
    bench = Bench(engine, count, options.tokens, options.reps, deadline)
    mixed = [None, *sorted({0, 1, count - 1} & set(range(count)))]
    before, after = (bench.prompt(tokens) for tokens in gate.PROMPTS)
    # A start beside others says nothing of a start alone.
    found = [] if options.turn else [Measurement("startup_s", count, engine.startup_s)]
    found += bench.cold_load()
    answers = [engine.answers(before, mixed)]
    _hold(answers, options)
    in_gate = _compiled(options.log)
    found += bench.run(options.metrics, options.streams)
    found.append(jit_compiles(options.log, count, in_gate))
    answers.append(engine.answers(after, mixed))
    found += _hold(answers, options)
    for point in bench.left_out:
        talk.write(f"LEFT OUT: {point}\n")
    return as_rows(found, _columns(options), provenance(options.run_id))


def _hold(answers: list[list[Answer]], options: argparse.Namespace) -> list[Measurement]:
    """Check the answers so far, and against the reference if there is one; the engine `vllm` writes it."""
    for group in answers:
        gate.check(group)
    if options.gate is None or options.engine == "base":
        return []
    about = {key: getattr(options, key) for key in ("model", "layers", "rank", "adapters", "run_id")}
    if options.engine == "vllm":
        gate.save(options.gate, answers, about)
        return []
    references = gate.load(options.gate, about)
    found = [
        gate.compare(ours, theirs, bound=options.gate_bound)
        for ours, theirs in zip(answers, references, strict=False)  # the long prompt comes last
    ]
    worst = max(found, key=lambda difference: difference["max"])
    more = {"bound": options.gate_bound, "p50": worst["p50"], "effect": worst["effect"]}
    return [Measurement("logprob_diff", options.adapters, worst["max"], more=more)]


def _compiled(log: Path) -> Counter[str]:
    return compiled_kernels(log.read_text(encoding="utf-8", errors="replace"))


def _columns(options: argparse.Namespace) -> dict[str, object]:
    return {
        "model": MODEL_NAMES[options.model],
        "layers": options.layers,
        "backend": "none" if options.engine == "base" else options.engine,
        "moe_backend": options.moe_backend or engine_kwargs(options.model, options.engine)["moe_backend"],
        "rank": options.rank,
        "max_loras": options.max_loras,
        "fast": options.fast,
        "together": options.turn is not None,
    }


def _line(row: dict[str, object]) -> str:
    where = row["streams"] or row["prompt"] or ""
    value, base = row["value"], row["base_value"]
    share = f"{float(str(value)) / float(str(base)):7.1%}" if base else ""
    return f"  {row['metric']:14} {where:>5} {row['adapters']:>2} adapters {value:>12} {share}\n"


def _require_plugin(engine: str) -> None:
    from importlib.metadata import entry_points

    if engine == "loractl" and "loractl" not in entry_points(group="vllm.general_plugins").names:
        raise RuntimeError(
            "loractl's plugin is not installed here, so vLLM's own kernels would be measured in its name"
        )


def _log_to(log: Path) -> TextIO:
    """Send what this process and its children print to `log`; return the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    talk = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    return talk


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="one engine in this process")
    one.add_argument("--model", choices=MODEL_NAMES, required=True)
    one.add_argument("--engine", choices=ENGINES, required=True)
    one.add_argument("--layers", type=int, default=24)
    one.add_argument("--rank", type=int, help="default: 32 for gptoss, 16 for qwen")
    one.add_argument("--moe-backend", help="instead of the engine's own choice")
    one.add_argument("--metrics", type=_words, default=METRICS, help=f"of {','.join(METRICS)}")
    one.add_argument("--streams", type=_numbers, default=STREAMS)
    one.add_argument("--gate", type=Path, help="answers that the engine vllm writes and the engine loractl is held to")
    one.add_argument("--ready", type=Path, help="a file to make once started")
    one.add_argument("--turn", type=Path, help="a file to wait for, once started, before anything is measured")
    one.add_argument("--log", type=Path, help="default: beside --out, named after the engine")
    for command in (commands.add_parser("all", help="engines one after the other"), commands.add_parser("warm")):
        command.add_argument(
            "engines", nargs="+", metavar="MODEL:ENGINE[:MOE_BACKEND]", help="gptoss:loractl and so on"
        )
        command.add_argument("--logs", type=Path, default=Path("bench-logs"))
        command.add_argument("--concurrent", type=int, default=3, help="engines at once, for warm")
        command.add_argument("--together", action="store_true", help="for all: start at once, measure in turn")
        command.add_argument("--timeout", type=float, default=400.0, help="seconds until an engine is stopped")
        command.add_argument("--metrics", default=",".join(METRICS))
        command.add_argument("--layers", type=int, default=24)
        command.set_defaults(parser=command)
    for command in commands.choices.values():
        command.add_argument("--adapters", type=int, default=8)
        command.add_argument("--max-loras", type=int, default=8)
        command.add_argument("--out", type=Path, default=RESULTS)
        command.add_argument("--data", type=Path, default=Path("bench-data"), help="models and adapters, about 1.6 GB")
        command.add_argument("--tokens", type=int, default=96, help="decoded for each stream")
        command.add_argument("--reps", type=int, default=3)
        command.add_argument("--kv-gib", type=float, default=12.0)
        command.add_argument("--utilization", type=float, default=0.3, help="free memory to insist on")
        command.add_argument("--fast", action="store_true", help="start sooner: four graph sizes, no autotuning")
        command.add_argument("--time-budget", type=float, default=75.0, help="seconds of measuring an engine")
        command.add_argument("--gate-bound", type=float, default=gate.BOUND)
        command.add_argument("--run-id", default=uuid.uuid4().hex[:12])
    return parser


def _words(text: str) -> tuple[str, ...]:
    words = tuple(filter(None, text.split(",")))
    if unknown := set(words) - set(METRICS):
        raise argparse.ArgumentTypeError(f"unknown metric {min(unknown)!r}, use some of {','.join(METRICS)}")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name."""
    options = _parser().parse_args(arguments)
    if options.command == "warm":
        return warm(options)
    if options.command == "all":
        return run_all(options)
    options.rank = options.rank or (32 if options.model == "gptoss" else 16)
    options.data = options.data.resolve()
    options.log = options.log or options.out.parent / f"{options.model}-{options.engine}.log"
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
