"""What ``loractl kernels`` prints."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loractl.cli.style import Style, clean, count_text
from loractl.cli.tables import Column, table

if TYPE_CHECKING:
    from loractl_kernels.bench import LayerCase, Timing
    from loractl_kernels.selfcheck import Finding
    from loractl_kernels.tune import Found


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One timed case."""

    case: LayerCase
    timing: Timing
    floor_us: float


def check_payload(findings: Sequence[Finding], device: str) -> dict[str, object]:
    """Return the findings as JSON."""
    return {
        "device": device,
        "is_gpu_checked": device != "cpu",
        "has_passed": all(finding.passed for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def check_lines(findings: Sequence[Finding], device: str, style: Style) -> Iterator[str]:
    """Yield a line for each check, with the case that comes nearest to its bound; and each that failed."""
    for name in dict.fromkeys(finding.name for finding in findings):
        mine = [finding for finding in findings if finding.name == name]
        failed = [finding for finding in mine if not finding.passed]
        mark = style.bad("fail") if failed else style.good("ok  ")
        worst = max(mine, key=lambda finding: finding.worst / finding.bound if finding.bound else finding.worst)
        cases = style.dim(f"{count_text(len(mine), 'case')}, worst {worst.worst:.3g} of {worst.bound:.3g}")
        yield f"{mark}  {clean(name)}  {cases}"
        yield from (
            f"      {clean(finding.case)}: {finding.worst:.3g}, and {finding.bound:.3g} is allowed"
            for finding in failed
        )
    if device == "cpu":
        yield style.warn("no NVIDIA GPU here: only the reference was checked, on the CPU")
    else:
        yield style.dim(f"checked on {clean(device)}")


def bench_payload(rows: Sequence[BenchRow]) -> list[dict[str, object]]:
    """Return the times as JSON."""
    return [
        {
            "model": row.case.shape.name,
            "rank": row.case.rank,
            "tokens": row.case.tokens,
            "adapters": row.case.adapters,
            **{name: round(value, 2) for name, value in asdict(row.timing).items()},
            "floor_us": round(row.floor_us, 2),
        }
        for row in rows
    ]


def bench_lines(rows: Sequence[BenchRow], style: Style) -> Iterator[str]:
    """Yield the times as a table."""
    columns = (
        Column("model"),
        *(Column(title, is_number=True) for title in ("rank", "tokens", "adapters", "us", "floor us", "times floor")),
    )
    cells = [
        (
            row.case.shape.name,
            *(str(number) for number in (row.case.rank, row.case.tokens, row.case.adapters)),
            *(f"{value:.1f}" for value in (row.timing.p50_us, row.floor_us, row.timing.p50_us / row.floor_us)),
        )
        for row in rows
    ]
    yield from table(columns, cells, style)


def tune_payload(found: Sequence[Found], path: Path, done: int) -> dict[str, object]:
    """Return what was found as JSON."""
    entries = [
        {
            **asdict(one.search.key),
            "launch": asdict(one.launch),
            "before_us": round(one.before_us, 2),
            "after_us": round(one.after_us, 2),
            "tried": one.tried,
            "refused": one.refused,
        }
        for one in found
    ]
    return {"file": str(path), "already_tuned": done, "found": entries}


def tune_lines(found: Sequence[Found], path: Path, done: int, style: Style) -> Iterator[str]:
    """Yield what got faster, and where it is kept."""
    for one in sorted(found, key=lambda one: one.after_us / one.before_us):
        if one.after_us < one.before_us:
            gain = style.good(f"{one.before_us / one.after_us:.2f}x")
            yield f"{gain}  {clean(str(one.search))}  {one.before_us:.1f} -> {one.after_us:.1f} us"
    kept = count_text(len(found), "launch configuration") if found else "nothing"
    known = style.dim(f"; {done} tuned already") if done else ""
    yield f"{kept} written to {clean(str(path))}{known}"


@contextmanager
def counting(label: str, total: int, *, is_shown: bool) -> Generator[Callable[[str], None]]:
    """Show a bar on stderr while the body runs; what it gets counts one more and says what that was."""
    if not is_shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda text: progress.update(task, advance=1, description=text)
