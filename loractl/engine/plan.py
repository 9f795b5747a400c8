"""What an engine is started for: slots, rank, modules and layouts, derived from what the registry holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, cast

from loractl.engine.errors import EngineError
from loractl_registry import AdapterVersion, ExpertLayout, ServingSnapshot

RANK_LADDER = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.32.0 can be started for."""

DEFAULT_SLOTS = 8
DEFAULT_RANK = 16
_HOST_HEADROOM = 4
_CPU_MAX_CONTEXT = 4096
_CPU_MIN_CACHE_BYTES = 32 * 2**20
_CPU_CONTEXTS_CACHED = 4
_FP32_BASE_BYTES = 4 * 2**30
_FUSED_BASES = frozenset({"gpt_oss"})


class Device(StrEnum):
    """Where an engine runs."""

    CUDA = "cuda"
    CPU = "cpu"


class PlanError(EngineError):
    """No engine can be planned for what was asked."""

    code = "engine.plan"


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One setting of a plan, its value, and why it is so."""

    setting: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """The settings that a running engine cannot change.

    Attributes:
        slots: Adapters that one batch may mix (``--max-loras``).
        host_slots: Adapters kept in host memory (``--max-cpu-loras``); the least recently used makes room.
        max_rank: Of `RANK_LADDER`; every adapter is padded to it.
        modules: Module suffixes that are wrapped; empty wraps every one that vLLM supports.
        layouts: Expert layouts that can be loaded.
        is_mixed: Whether vLLM is told to take both expert layouts.
        max_context: Largest number of tokens of a request, or None for the base's own.
        cache_bytes: Size of the KV cache, or None for vLLM's choice.
        dtype: Torch name that the base is loaded in, or None for the base's own.
        rows: The same, with reasons, for people.
    """

    base: str
    device: Device
    slots: int
    host_slots: int
    max_rank: int
    modules: tuple[str, ...]
    layouts: tuple[ExpertLayout, ...]
    is_mixed: bool
    max_context: int | None
    cache_bytes: int | None
    dtype: str | None
    rows: tuple[PlanRow, ...]

    def refusal_of(self, version: AdapterVersion) -> str | None:
        """Return why an engine with this plan cannot take `version` and what a restart would change, or None."""
        facts = version.facts
        if facts.rank > self.max_rank:
            rung = _rung(facts.rank)
            return f"rank {facts.rank} is above the engine's {self.max_rank}; a restart plans rank {rung}"
        missing = [module for module in facts.modules if self.modules and module not in self.modules]
        if missing:
            wrapped, more = ", ".join(self.modules), ", ".join(missing)
            return f"modules {more} are not among the engine's {wrapped}; a restart wraps them too"
        if facts.experts is not ExpertLayout.NONE and facts.experts not in self.layouts:
            return f"expert layout {facts.experts} is not among the engine's; a restart takes both layouts"
        return None

    def to_json(self) -> dict[str, object]:
        """Return JSON values that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> EnginePlan:
        """Read what `to_json` gave.

        Raises:
            PlanError: It is not that.
        """
        try:
            body = dict(cast("Mapping[str, Any]", value))
            body["device"] = Device(body["device"])
            body["modules"] = tuple(map(str, body["modules"]))
            body["layouts"] = tuple(map(ExpertLayout, body["layouts"]))
            body["rows"] = tuple(PlanRow(**row) for row in body["rows"])
            return cls(**body)
        except (TypeError, KeyError, ValueError) as error:
            raise PlanError(f"not an engine plan: {error}") from error


def plan_engine(
    snapshot: ServingSnapshot, *, device: Device, max_adapters: int | None = None, max_rank: int | None = None
) -> EnginePlan:
    """Plan an engine for exactly the servable versions of `snapshot`.

    Without any, it is planned open: every module, both layouts and rank 16, so that a first promotion can enter a
    running server. Otherwise there is room for one adapter more than there are, up to eight slots; `max_adapters` and
    `max_rank` say otherwise.

    Raises:
        PlanError: `max_adapters` is below 1, or `max_rank` is below a servable version's rank or above 512.
    """
    versions = snapshot.versions
    slots = _slots(len(versions), max_adapters)
    rank = _rank(versions, max_rank)
    modules = tuple(sorted({module for version in versions for module in version.facts.modules}))
    layouts, is_mixed = _layouts(versions, snapshot.base.config)
    context, cache, dtype = _cpu_limits(snapshot) if device is Device.CPU else (None, None, None)
    host_slots = max(slots, len(versions) + _HOST_HEADROOM)
    rows = [
        PlanRow("device", device.value, "an NVIDIA GPU is here" if device is Device.CUDA else "no NVIDIA GPU is used"),
        PlanRow("slots", str(slots), _why_slots(len(versions), max_adapters)),
        PlanRow("host slots", str(host_slots), f"every servable version and {_HOST_HEADROOM} more stay in host memory"),
        PlanRow("rank", str(rank), _why_rank(versions, max_rank)),
        PlanRow(
            "modules", ", ".join(modules) or "all", "what servable versions touch" if versions else "none to go by"
        ),
        PlanRow("expert layouts", ", ".join(layouts) or "none", _why_layouts(versions)),
        PlanRow("weights", dtype or "as the base", "exact and small on CPU" if dtype else "the base's own type"),
        PlanRow("KV cache", "vLLM's choice" if cache is None else f"{cache / 2**20:.0f} MiB", _why_cache(context)),
    ]
    return EnginePlan(
        base=snapshot.base.name,
        device=device,
        slots=slots,
        host_slots=host_slots,
        max_rank=rank,
        modules=modules,
        layouts=layouts,
        is_mixed=is_mixed,
        max_context=context,
        cache_bytes=cache,
        dtype=dtype,
        rows=tuple(rows),
    )


def _slots(count: int, asked: int | None) -> int:
    if asked is None:
        return min(count + 1, DEFAULT_SLOTS)
    if asked < 1:
        raise PlanError(f"cannot plan {asked} adapter slots", hint="pass --max-adapters 1 or more")
    return asked


def _rank(versions: tuple[AdapterVersion, ...], asked: int | None) -> int:
    largest = max((version.facts.rank for version in versions), default=0)
    if asked is None:
        return _rung(largest) if versions else DEFAULT_RANK
    if asked < 1 or asked > RANK_LADDER[-1]:
        raise PlanError(f"cannot plan rank {asked}", hint=f"pass --max-rank from 1 to {RANK_LADDER[-1]}")
    if asked < largest:
        widest = max(versions, key=lambda version: version.facts.rank)
        raise PlanError(
            f"cannot plan rank {asked}: {widest.ref} has rank {largest}",
            hint=f"pass --max-rank {_rung(largest)}, or retire it: loractl retire {widest.ref} --reason TEXT",
        )
    return _rung(asked)


def _rung(rank: int) -> int:
    return next(rung for rung in RANK_LADDER if rung >= rank)


def _layouts(
    versions: tuple[AdapterVersion, ...], config: Mapping[str, object]
) -> tuple[tuple[ExpertLayout, ...], bool]:
    both = (ExpertLayout.PER_EXPERT, ExpertLayout.FUSED)
    if not versions:
        return both, True
    native = ExpertLayout.FUSED if config.get("model_type") in _FUSED_BASES else ExpertLayout.PER_EXPERT
    used = {version.facts.experts for version in versions} - {ExpertLayout.NONE}
    if not used:
        return (), False
    return ((native,), False) if used == {native} else (both, True)


def _cpu_limits(snapshot: ServingSnapshot) -> tuple[int, int, str | None]:
    """Return context, cache bytes and dtype: left alone, vLLM reserves most of a NUMA node for the cache."""
    config = snapshot.base.config
    context = min(_integer(config, "max_position_embeddings", _CPU_MAX_CONTEXT), _CPU_MAX_CONTEXT)
    heads = _integer(config, "num_attention_heads", 32)
    kv_heads = _integer(config, "num_key_value_heads", heads)
    head_dim = _integer(config, "head_dim", _integer(config, "hidden_size", 4096) // heads)
    layers = _integer(config, "num_hidden_layers", 32)
    token_bytes = 2 * layers * kv_heads * head_dim * 4
    cache = max(_CPU_MIN_CACHE_BYTES, token_bytes * context * _CPU_CONTEXTS_CACHED)
    return context, cache, "float32" if snapshot.base.size_bytes <= _FP32_BASE_BYTES else None


def _integer(config: Mapping[str, object], name: str, default: int) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else default


def _why_slots(count: int, asked: int | None) -> str:
    if asked is not None:
        return "--max-adapters"
    if count + 1 > DEFAULT_SLOTS:
        return f"{count} servable versions take turns in {DEFAULT_SLOTS}; --max-adapters for more"
    return f"{count} servable and one to spare"


def _why_rank(versions: tuple[AdapterVersion, ...], asked: int | None) -> str:
    if asked is not None:
        return f"--max-rank {asked}, on vLLM's ladder"
    if not versions:
        return "no servable version to go by"
    widest = max(versions, key=lambda version: version.facts.rank)
    return f"{widest.ref} has rank {widest.facts.rank}"


def _why_layouts(versions: tuple[AdapterVersion, ...]) -> str:
    return "as the servable versions' files" if versions else "no servable version to go by"


def _why_cache(context: int | None) -> str:
    return "what the GPU has left" if context is None else f"{_CPU_CONTEXTS_CACHED} requests of {context} tokens"
