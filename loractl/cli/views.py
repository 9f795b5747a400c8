"""Pieces of text that several commands show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from loractl.cli.style import Style, clean, size_text
from loractl.cli.tables import Column, facts, table
from loractl_registry.records import AdapterVersion, DataSetTerms, Provenance, VersionSummary
from loractl_registry.refs import VersionRef

if TYPE_CHECKING:
    from loractl_registry.outcomes import Damage, SignedStanding

MARK = "BREAK-GLASS"


def paint_stage(style: Style, text: str) -> str:
    """Colour a stage or an action; the mark of a broken glass as wrong."""
    return style.bad(text) if MARK in text else style.stage(text)


VERSION_COLUMNS = (
    Column("ref", Style.bold),
    Column("stage", paint_stage),
    Column("base", priority=1),
    Column("rank", priority=4, is_number=True),
    Column("size", priority=3, is_number=True),
    Column("digest", Style.dim, priority=5),
    Column("added", Style.dim, priority=2),
    Column("by", Style.dim, priority=6),
)


def when(moment: datetime) -> str:
    """Return a time for people: UTC, to the minute."""
    # Not strftime, which takes ten times as long, in a table that may have 10 000 rows.
    return moment.astimezone(UTC).isoformat(" ")[:16]


def short_digest(digest: str) -> str:
    """Return enough of a digest to tell two apart by eye."""
    return digest.removeprefix("sha256:")[:12]


def summary_cells(row: VersionSummary, *, is_broken_glass: bool = False) -> tuple[str, ...]:
    """Return the cells of `VERSION_COLUMNS`."""
    name, number, stage, base, digest, rank, size_bytes, added_at, added_by = row
    return (
        f"{name}@{number}",
        f"{stage} {MARK}" if is_broken_glass else stage,
        base or "-",
        str(rank),
        size_text(size_bytes),
        digest[7:19],
        f"{added_at[:10]} {added_at[11:16]}",
        added_by,
    )


def version_table(
    rows: Sequence[VersionSummary], style: Style, broken: Mapping[VersionRef, datetime] = MappingProxyType({})
) -> Iterator[str]:
    """Yield the table of ``list``; versions for which the glass was broken are marked."""
    if not broken:
        return table(VERSION_COLUMNS, map(summary_cells, rows), style)
    cells = (summary_cells(row, is_broken_glass=VersionRef(row.name, row.number) in broken) for row in rows)
    return table(VERSION_COLUMNS, cells, style)


def version_facts(version: AdapterVersion, style: Style) -> Iterator[str]:
    """Yield what a version is."""
    fact = version.facts
    yield from facts(
        [
            ("ref", str(version.ref)),
            ("stage", version.stage.value),
            ("base", version.base or "not known yet"),
            ("digest", version.digest),
            ("size", size_text(version.size_bytes)),
            ("rank", f"{fact.rank}, alpha {fact.alpha:g}"),
            ("modules", ", ".join(fact.modules)),
            ("experts", fact.experts.value),
            ("tensors", f"{fact.tensor_count}, {fact.dtype}"),
            ("added", f"{when(version.added_at)} by {version.added_by}"),
            ("path", str(version.path)),
        ],
        style,
    )


def provenance_lines(provenance: Provenance, declared_base: str | None, style: Style) -> Iterator[str]:
    """Yield where a version came from; what nobody said is left out."""
    yield from facts(
        [
            ("source", provenance.source),
            ("commit", provenance.commit or ""),
            ("author", provenance.author or ""),
            ("licence", provenance.licence or "not stated"),
            ("trained on", ", ".join(map(terms_text, datasets_of(provenance))) or "not stated"),
            ("trained from", declared_base or ""),
            ("code commit", provenance.code_commit or ""),
            ("note", provenance.note or ""),
            *((key, str(value)) for key, value in sorted(provenance.extra.items())),
        ],
        style,
    )


def datasets_of(provenance: Provenance) -> tuple[DataSetTerms, ...]:
    """Return the data sets of `provenance` with what was said of each."""
    said = {each.name: each for each in provenance.dataset_terms}
    return tuple(said.get(name, DataSetTerms(name)) for name in provenance.datasets)


def terms_text(terms: DataSetTerms) -> str:
    """Write a data set with its licence and class."""
    said = ", ".join(each for each in (terms.licence, terms.data_class) if each)
    return f"{terms.name} ({said})" if said else terms.name


def signed_lines(standing: SignedStanding, style: Style) -> Iterator[str]:
    """Yield where a version stands by what was signed, and what disagrees with it."""
    if standing.by is None and standing.objection is None:
        return
    yield from heading("signed", style)
    if standing.by is not None and standing.stage is not None:
        end = f", until {when(standing.expires)}" if standing.expires else ""
        yield f"{style.stage(standing.stage.value)} by {standing.by}, statement {standing.sequence}{end}"
    if standing.break_glass is not None:
        yield style.bad(f"{MARK}: approved without review: {clean(standing.break_glass)}")
    if standing.objection is not None:
        yield style.bad(clean(standing.objection))


def damage_lines(subject: str, damaged: Sequence[Damage], style: Style) -> Iterator[str]:
    """Yield the files of `subject` that are not what their manifest says."""
    yield f"{style.bad('damaged')}  {subject}"
    for one in damaged:
        yield f"  {clean(one.path)}: expected {clean(one.expected)}, found {clean(one.found)}"


def heading(title: str, style: Style) -> Iterator[str]:
    """Yield the line above a part of a longer answer."""
    yield ""
    yield style.bold(title)
