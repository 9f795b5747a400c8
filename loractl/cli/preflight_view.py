"""What preflight found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loractl.cli.style import Style, clean, count_text, size_text, wrap
from loractl.cli.tables import facts
from loractl_registry.errors import RegistryError
from loractl_registry.refs import VersionRef

if TYPE_CHECKING:
    from loractl_registry import Registry
    from loractl_registry.preflight import PreflightReport


def preflight_of(registry: Registry, ref: VersionRef) -> PreflightReport | RegistryError:
    """Return the report on `ref`, or why there is none: showing a version must not fail for that."""
    try:
        return registry.preflight(ref)
    except RegistryError as error:
        return error


def preflight_payload(found: PreflightReport | RegistryError | None) -> dict[str, object] | None:
    """Return what preflight found, as JSON values."""
    if found is None:
        return None
    if isinstance(found, RegistryError):
        return {"is_passed": False, "code": found.code, "message": str(found), "hint": found.hint}
    return {
        "is_passed": True,
        "base_type": found.base_type,
        "tensor_count": found.tensor_count,
        "modules": dict(found.modules),
        "experts": found.experts.value,
        "rank": found.rank,
        "engine_rank": found.engine_rank,
        "slot_bytes": found.slot_bytes,
        "findings": list(found.findings),
    }


def preflight_summary(report: PreflightReport) -> str:
    """Return the numbers that matter, in one line."""
    room = f"{size_text(report.slot_bytes)} a slot at rank {report.engine_rank}"
    return f"all {count_text(report.tensor_count, 'tensor')} used, {room}"


def preflight_lines(found: PreflightReport | RegistryError, style: Style) -> Iterator[str]:
    """Yield what preflight says about a version now."""
    if isinstance(found, RegistryError):
        yield from wrap(f"{style.bad('refused')}  {clean(str(found))}", style.width, indent="  ")
        return
    touched = ", ".join(f"{name} in {count_text(layers, 'layer')}" for name, layers in found.modules.items())
    yield from facts(
        [
            ("fits", f"{found.base_type}, all {count_text(found.tensor_count, 'tensor')} used"),
            ("touches", touched),
            ("engine rank", str(found.engine_rank)),
            ("GPU memory", f"{size_text(found.slot_bytes)} a slot, for this adapter alone"),
            *(("finding", finding) for finding in found.findings),
        ],
        style,
    )
