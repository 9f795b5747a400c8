"""What an engine is started for: slots, rank, modules and layouts, derived from what the registry holds.

An engine cannot change these while it runs, and what it is started for costs memory and time whether it is used or not.
So it is planned for the versions that may be served at that moment and for nothing else, with one exception: room for
one adapter more, so that a promotion of something alike enters at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, cast

from loractl.engine.errors import EngineError
from loractl_registry import AdapterVersion, ExpertLayout, ServingSnapshot
from loractl_registry.preflight import (
    FUSED_NATIVELY,
    RANK_LADDER,
    BaseShape,
    PreflightRefusedError,
    read_base_shape,
    rung_of,
    slot_bytes,
)

DEFAULT_SLOTS = 8
DEFAULT_RANK = 16
_HOST_HEADROOM = 4
_HOST_BUDGET_BYTES = 16 * 2**30
_CPU_MAX_CONTEXT = 4096
_CPU_MIN_CACHE_BYTES = 32 * 2**20
_CPU_CONTEXTS_CACHED = 4
_FP32_BASE_BYTES = 4 * 2**30


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
        layouts: Expert layouts that can be loaded. Adapters without experts fit in any case.
        is_mixed: Whether vLLM is told to take both expert layouts (``--enable-mixed-moe-lora-format``). It then has to
            be told of each adapter which one it is.
        max_context: Largest number of tokens of a request, or None for the base's own.
        cache_bytes: Size of the KV cache, or None for vLLM's choice.
        dtype: Torch name that the base is loaded in, or None for the base's own.
        rows: The same, with reasons, for people.
        slot_bytes: What one slot takes of the device's memory, or None if the base's modules are not known.
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
    slot_bytes: int | None = None

    def refusal_of(self, version: AdapterVersion) -> str | None:
        """Return why an engine with this plan cannot take `version` and what a restart would change, or None.

        How many adapters there are is no reason: they take turns in the slots.
        """
        facts = version.facts
        if facts.rank > RANK_LADDER[-1]:
            return f"rank {facts.rank} is above {RANK_LADDER[-1]}, the highest of any engine"
        if facts.rank > self.max_rank:
            return (
                f"rank {facts.rank} is above the engine's {self.max_rank}; a restart plans rank {rung_of(facts.rank)}"
            )
        missing = [module for module in facts.modules if self.modules and module not in self.modules]
        if missing:
            wrapped, more = ", ".join(self.modules), ", ".join(missing)
            return f"modules {more} are not among the engine's {wrapped}; a restart wraps them too"
        if not self.fits_layout(facts.experts):
            known = ", ".join(self.layouts) or "none"
            return f"expert layout {facts.experts} is not among the engine's ({known}); a restart takes it too"
        return None

    def fits_layout(self, layout: ExpertLayout) -> bool:
        """Whether adapters with this layout of experts can be loaded."""
        return layout is ExpertLayout.NONE or layout in self.layouts

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

    There is room for one adapter more than there are, up to eight slots; more adapters take turns in them. The rank is
    the lowest of vLLM's ladder that takes every version, and only modules that a version touches are wrapped. With no
    version at all the engine is planned open: one slot, every module, every layout of the base and rank 16, so that a
    first promotion enters while it runs. `max_adapters` and `max_rank` say otherwise.

    Raises:
        PlanError: `max_adapters` is below 1, or `max_rank` is below a servable version's rank or above 512.
    """
    versions = snapshot.versions
    shape = _shape(snapshot)
    slots = _slots(len(versions), max_adapters)
    rank = _rank(versions, max_rank)
    modules = tuple(sorted({module for version in versions for module in version.facts.modules}))
    layouts, is_mixed = _layouts(versions, shape)
    context, cache, dtype = _cpu_limits(snapshot) if device is Device.CPU else (None, None, None)
    plan = EnginePlan(
        base=snapshot.base.name,
        device=device,
        slots=slots,
        host_slots=_host_slots(versions, slots),
        max_rank=rank,
        modules=modules,
        layouts=layouts,
        is_mixed=is_mixed,
        max_context=context,
        cache_bytes=cache,
        dtype=dtype,
        rows=(),
        slot_bytes=_slot_bytes(shape, modules, rank, dtype=dtype, is_mixed=is_mixed),
    )
    return replace(plan, rows=tuple(_rows(plan, versions, max_adapters, max_rank)))


def _rows(
    plan: EnginePlan, versions: tuple[AdapterVersion, ...], max_adapters: int | None, max_rank: int | None
) -> Iterator[PlanRow]:
    is_cuda = plan.device is Device.CUDA
    yield PlanRow("device", plan.device.value, "an NVIDIA GPU is here" if is_cuda else "no NVIDIA GPU is used")
    yield PlanRow("slots", str(plan.slots), _why_slots(len(versions), max_adapters))
    yield PlanRow("host slots", str(plan.host_slots), _why_host_slots(plan, len(versions)))
    yield PlanRow("rank", str(plan.max_rank), _why_rank(versions, max_rank))
    why_modules = "what servable versions touch" if versions else "no servable version to go by"
    yield PlanRow("modules", ", ".join(plan.modules) or "all", why_modules)
    why_layouts = "as the servable versions' files" if versions else "no servable version to go by"
    yield PlanRow("expert layouts", ", ".join(plan.layouts) or "none", why_layouts)
    if plan.slot_bytes is not None:
        total = _size(plan.slots * plan.slot_bytes)
        yield PlanRow("adapter memory", total, f"{plan.slots} x {_size(plan.slot_bytes)}, whether in use or not")
    why_dtype = "exact, and small enough on CPU" if plan.dtype else "the base's own type"
    yield PlanRow("weights", plan.dtype or "as the base", why_dtype)
    cache = "vLLM's choice" if plan.cache_bytes is None else _size(plan.cache_bytes)
    yield PlanRow("KV cache", cache, _why_cache(plan.max_context))


def _shape(snapshot: ServingSnapshot) -> BaseShape | None:
    """Return the base's modules, or None: a base may be served alone whatever is known of it."""
    try:
        return read_base_shape(snapshot.base.config)
    except PreflightRefusedError:
        return None


def _slot_bytes(
    shape: BaseShape | None, modules: tuple[str, ...], rank: int, *, dtype: str | None, is_mixed: bool
) -> int | None:
    if shape is None:
        return None
    return slot_bytes(shape, modules, rank, element_bytes=4 if dtype == "float32" else 2, is_mixed=is_mixed)


def _host_slots(versions: tuple[AdapterVersion, ...], slots: int) -> int:
    """Return how many adapters stay in host memory; beyond that they are read from disk again when asked for."""
    largest = max((version.size_bytes for version in versions), default=1)
    return max(slots, min(len(versions) + _HOST_HEADROOM, _HOST_BUDGET_BYTES // max(largest, 1)))


def _slots(count: int, asked: int | None) -> int:
    if asked is None:
        return min(count + 1, DEFAULT_SLOTS)
    if asked < 1:
        raise PlanError(f"cannot plan {asked} adapter slots", hint="pass --max-adapters 1 or more")
    return asked


def _rank(versions: tuple[AdapterVersion, ...], asked: int | None) -> int:
    largest = max((version.facts.rank for version in versions), default=0)
    if asked is None:
        return rung_of(largest) if versions else DEFAULT_RANK
    if asked < 1 or asked > RANK_LADDER[-1]:
        raise PlanError(f"cannot plan rank {asked}", hint=f"pass --max-rank from 1 to {RANK_LADDER[-1]}")
    if asked < largest:
        widest = max(versions, key=lambda version: version.facts.rank)
        raise PlanError(
            f"cannot plan rank {asked}: {widest.ref} has rank {largest}",
            hint=f"pass --max-rank {rung_of(largest)}, or retire it: loractl retire {widest.ref} --reason TEXT",
        )
    return rung_of(asked)


def _layouts(versions: tuple[AdapterVersion, ...], shape: BaseShape | None) -> tuple[tuple[ExpertLayout, ...], bool]:
    if shape is None or not shape.experts:
        return (), False
    if shape.model_type in FUSED_NATIVELY:
        # Nobody writes one tensor an expert for these, and telling vLLM to expect it would split gate and up.
        used = not versions or any(version.facts.experts is ExpertLayout.FUSED for version in versions)
        return ((ExpertLayout.FUSED,) if used else ()), False
    found = {version.facts.experts for version in versions} - {ExpertLayout.NONE}
    if versions and not found:
        return (), False
    if found == {ExpertLayout.PER_EXPERT}:
        return (ExpertLayout.PER_EXPERT,), False
    return (ExpertLayout.PER_EXPERT, ExpertLayout.FUSED), True


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


def _why_host_slots(plan: EnginePlan, count: int) -> str:
    if plan.host_slots >= count + _HOST_HEADROOM:
        return f"every servable version and {plan.host_slots - count} more stay in host memory"
    return f"as many of {count} versions as {_size(_HOST_BUDGET_BYTES)} of host memory take"


def _size(size_bytes: int) -> str:
    mebibytes = size_bytes / 2**20
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.1f} MiB"


def _why_cache(context: int | None) -> str:
    return "what the GPU has left" if context is None else f"{_CPU_CONTEXTS_CACHED} requests of {context} tokens"
