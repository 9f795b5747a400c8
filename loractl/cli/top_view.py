"""What ``loractl top`` prints: the same lines on a terminal that moves and on paper that does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from loractl.cli.figures import NOTHING, amount, latency, long_time, percent
from loractl.cli.gpus import GpuUse
from loractl.cli.style import Style, clean, size_text, wrap
from loractl.cli.tables import Column, table
from loractl.cli.top_rows import Listed, Sample
from loractl.observability.rates import Rates
from loractl.observability.state_document import AdapterRow, StandingRow, TenantRow

_SHARED = (
    Column("req/s", is_number=True),
    Column("tok/s", Style.bold, is_number=True),
    Column("ttft p50", priority=4, is_number=True),
    Column("ttft p99", priority=1, is_number=True),
    Column("errors", priority=2, is_number=True),
    Column("waiting", priority=3, is_number=True),
    Column("in flight", priority=5, is_number=True),
    Column("engine", priority=6, is_number=True),
)
_ADAPTER_COLUMNS = (
    Column("adapter", Style.bold),
    Column("stage", Style.stage, priority=7),
    Column("slot", Style.good, priority=8),
    *_SHARED,
)
_TENANT_COLUMNS = (
    Column("tenant", Style.bold),
    Column("weight", priority=9, is_number=True),
    Column("class", priority=10),
    *_SHARED,
    Column("refused", priority=7, is_number=True),
    Column("least left", priority=8),
)
_UNITS = {
    "requests_per_minute": "req/min",
    "tokens_per_minute": "tok/min",
    "concurrent": "at once",
    "tokens_per_day": "tok/day",
}


def payload_of(document: dict[str, object], gpus: Sequence[GpuUse]) -> dict[str, object]:
    """Return what ``--json`` writes: what the server answered, and the GPUs of this machine."""
    return {**document, "gpus": [asdict(gpu) for gpu in gpus]}


def head_lines(sample: Sample, style: Style) -> Iterator[str]:
    """Yield how the server is, how fast everything goes, and what the GPUs do."""
    state = sample.state
    name, health = clean(state.base.name), clean(state.health.status)
    reason = f": {clean(state.health.reason)}" if state.health.reason else ""
    first, *rest = wrap(f"{name}  {health}{reason}  {'  '.join(_facts(sample))}", style.width)
    paint = style.good if state.health.status == "ok" else style.bad
    yield first.replace(name, style.bold(name), 1).replace(f"  {health}", f"  {paint(health)}", 1)
    yield from rest
    yield from wrap("  ".join(_totals(sample, sample.window.total if sample.window else None)), style.width)
    for gpu in sample.gpus:
        memory = f"{size_text(gpu.used_bytes)} of {size_text(gpu.total_bytes)}"
        yield from wrap(clean(f"gpu {gpu.index}  {gpu.name}  busy {percent(gpu.use)}  memory {memory}"), style.width)


def adapter_lines(rows: Sequence[Listed], style: Style) -> Iterator[str]:
    """Yield the table of adapters."""
    return table(_ADAPTER_COLUMNS, [_adapter_cells(listed) for listed in rows], style)


def tenant_lines(rows: Sequence[Listed], style: Style) -> Iterator[str]:
    """Yield the table of tenants."""
    return table(_TENANT_COLUMNS, [_tenant_cells(listed) for listed in rows], style)


def page_lines(
    sample: Sample, adapters: Sequence[Listed], tenants: Sequence[Listed], style: Style, *, room: int | None = None
) -> Iterator[str]:
    """Yield everything, in at most `room` lines if that is given: what does not fit is counted."""
    head = list(head_lines(sample, style))
    yield from head
    adapters_room, tenants_room = _share(len(adapters), len(tenants), None if room is None else room - len(head))
    yield ""
    yield from _some(list(adapter_lines(adapters[:adapters_room], style)), len(adapters), adapters_room, style)
    if tenants:
        yield ""
        yield from _some(list(tenant_lines(tenants[:tenants_room], style)), len(tenants), tenants_room, style)


def _share(adapters: int, tenants: int, room: int | None) -> tuple[int, int]:
    """Return how many rows of each fit: a third of the room is the tenants', and what one leaves the other has."""
    if room is None:
        return adapters, tenants
    # A blank line, a heading, what is not shown of columns and of rows: for each table.
    rows = max(room - (8 if tenants else 4), 2)
    for_tenants = min(tenants, max(rows // 3, rows - adapters, 1))
    return min(adapters, max(rows - for_tenants, 1)), for_tenants


def _some(lines: list[str], count: int, shown: int, style: Style) -> Iterator[str]:
    yield from lines
    if count > shown:
        yield style.dim(f"({count - shown} more)")


def _facts(sample: Sample) -> Iterator[str]:
    state = sample.state
    yield f"fairness {clean(state.fairness)}"
    yield f"slots {sum(row.is_resident and row.version is not None for row in state.adapters)}/{state.engine.slots}"
    yield f"kv cache {percent(state.engine.kv_use)}"
    if state.uptime_s is not None:
        yield f"up {long_time(state.uptime_s)}"


def _totals(sample: Sample, total: Rates | None) -> Iterator[str]:
    state = sample.state
    yield f"{amount(total.requests_per_s if total else None)} req/s"
    yield f"{amount(total.output_tokens_per_s if total else None)} tok/s out"
    yield f"{amount(total.input_tokens_per_s if total else None)} in"
    yield f"ttft {latency(total.ttft.p50 if total else None)} p99 {latency(total.ttft.p99 if total else None)}"
    yield f"between tokens {latency(total.inter_token.p50 if total else None)}"
    yield f"in flight {state.in_flight}/{state.engine.max_num_seqs}"
    yield f"waiting {state.waiting}"
    yield f"errors {percent(total.error_share if total else None)}"
    yield f"refused {percent(total.refused_share if total else None)}"


def _adapter_cells(listed: Listed) -> tuple[str, ...]:
    row = listed.row
    assert isinstance(row, AdapterRow)  # noqa: S101  # narrows what one list of either kind cannot say
    return (
        listed.name,
        row.stage or ("base" if row.is_base else NOTHING),
        "yes" if row.is_resident else "",
        *_shared_cells(listed),
    )


def _tenant_cells(listed: Listed) -> tuple[str, ...]:
    row = listed.row
    assert isinstance(row, TenantRow)  # noqa: S101  # as above
    refused = percent(listed.rates.refused_share if listed.rates else None)
    return (
        listed.name,
        amount(row.weight),
        row.priority or "",
        *_shared_cells(listed),
        refused,
        _least_left(row.standing),
    )


def _shared_cells(listed: Listed) -> tuple[str, ...]:
    row, rates = listed.row, listed.rates
    return (
        amount(rates.requests_per_s if rates else None),
        amount(rates.output_tokens_per_s if rates else None),
        latency(rates.ttft.p50 if rates else None),
        latency(rates.ttft.p99 if rates else None),
        percent(rates.error_share if rates else None),
        str(row.waiting),
        str(row.in_flight),
        percent(rates.busy_share if rates else None),
    )


def _least_left(standing: Sequence[StandingRow]) -> str:
    if not standing:
        return NOTHING
    least = min(standing, key=lambda each: each.remaining / max(each.limit, 1))
    return f"{amount(max(least.remaining, 0))} of {amount(least.limit)} {_UNITS.get(least.kind, least.kind)}"
