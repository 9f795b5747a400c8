"""What the real engine says on the prompts: vLLM offline, in a process that ends afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

from loractl.proof.errors import EngineSideError
from loractl.proof.prompts import PromptSet
from loractl.proof.readings import Reading
from loractl.proof.record import EngineFacts
from loractl.serving.environment import engine_environment
from loractl_registry.preflight import FUSED_NATIVELY, PreflightReport
from loractl_registry.records import ExpertLayout
from loractl_registry.strict_json import as_list, as_object

DEFAULT_TIMEOUT_S = 900
_LOG_LINES = 12
_ENVIRONMENT: Mapping[str, str] = {
    # The worker has the engine in its own process, so that ending the one ends the other.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_CPU_ENVIRONMENT: Mapping[str, str] = {"TORCHDYNAMO_DISABLE": "1"}


@dataclass(frozen=True, slots=True)
class AdapterUnderTest:
    """An adapter as the engine is told of it.

    Attributes:
        is_fused: Whether its expert tensors are in PEFT's fused (3D) layout.
    """

    name: str
    path: Path
    is_fused: bool


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine is started for; `for_report` derives it from preflight.

    Attributes:
        dtype: float32 shows the smallest differences; anything less only where memory forbids.
        modules: Module suffixes that are wrapped, as in a plan.
        is_mixed: Whether vLLM is told to take both layouts of experts.
        slots: Adapters that one batch may mix.
    """

    device: Literal["cpu", "cuda"]
    max_rank: int
    modules: tuple[str, ...]
    is_mixed: bool
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    slots: int = 1
    timeout_s: float = DEFAULT_TIMEOUT_S

    @classmethod
    def for_report(cls, report: PreflightReport, device: Literal["cpu", "cuda"]) -> EngineSettings:
        """Return what an engine has to be started for to take the adapter of `report`."""
        is_mixed = report.experts is ExpertLayout.FUSED and report.base_type not in FUSED_NATIVELY
        return cls(device, report.engine_rank, tuple(sorted(report.modules)), is_mixed)


@dataclass(frozen=True, slots=True)
class AdapterReadings:
    """An adapter in one batch with everything else, and alone."""

    batched: Reading
    alone: Reading


@dataclass(frozen=True, slots=True)
class EngineObservation:
    """What the engine said.

    Attributes:
        base: The base in one batch with everything else, and alone.
        adapters: By name.
        refused: By name, the engine's own words about what it would not load.
    """

    facts: EngineFacts
    base: AdapterReadings
    adapters: Mapping[str, AdapterReadings]
    refused: Mapping[str, str] = field(default_factory=dict[str, str])


def observe(
    base: Path,
    adapters: Sequence[AdapterUnderTest],
    prompts: PromptSet,
    settings: EngineSettings,
    *,
    inherited: Mapping[str, str] = os.environ,
) -> EngineObservation:
    """Run vLLM in a process of its own, and read base and `adapters` in one batch and each prompt alone.

    Raises:
        EngineSideError: It did not start, died, or took longer than the settings allow; the message ends with its log.
    """
    own = {**_ENVIRONMENT, **(_CPU_ENVIRONMENT if settings.device == "cpu" else {})}
    environment = engine_environment(inherited, own).variables
    with tempfile.TemporaryDirectory(prefix="loractl-proof-") as held:
        folder = Path(held)
        job = {
            "base": str(base),
            "adapters": [{**asdict(each), "path": str(each.path)} for each in adapters],
            "prompts": prompts.rows,
            "settings": asdict(settings),
        }
        (folder / "job.json").write_text(json.dumps(job))
        _run(folder, environment, settings.timeout_s)
        return _read((folder / "result.json").read_bytes())


def _run(folder: Path, environment: Mapping[str, str], timeout_s: float) -> None:
    argv = (sys.executable, "-m", "loractl.vllm_plugin.observing", str(folder))
    with (folder / "log").open("wb") as log:
        try:
            done = subprocess.run(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EngineSideError(
                f"the engine did not finish the proof in {timeout_s:.0f} s", hint="fewer prompts, or a longer timeout"
            ) from error
    if done.returncode != 0 or not (folder / "result.json").is_file():
        lines = (folder / "log").read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise EngineSideError(f"the engine ended with {done.returncode} during the proof:\n" + "\n".join(lines))


def _read(data: bytes) -> EngineObservation:
    held = as_object(json.loads(data)) or {}
    adapters = as_object(held["adapters"]) or {}
    return EngineObservation(
        EngineFacts.model_validate(held["facts"]),
        _readings(held["base"]),
        {name: _readings(value) for name, value in adapters.items()},
        cast("dict[str, str]", held["refused"]),
    )


def _readings(value: object) -> AdapterReadings:
    held = as_object(value) or {}
    return AdapterReadings(_reading(held["batched"]), _reading(held["alone"]))


def _reading(value: object) -> Reading:
    prompts = cast("list[list[list[list[float]]]]", as_list(value) or [])
    return Reading(tuple(tuple({int(token): logprob for token, logprob in row} for row in rows) for rows in prompts))
