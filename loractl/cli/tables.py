"""Tables and blocks of facts as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from loractl.cli.style import Style, clean, display_width, shorten, wrap

_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: Heading.
        paint: Colours a padded cell.
        priority: When the terminal is too narrow, columns with the largest number go first; 0 never goes.
    """

    title: str
    paint: Callable[[Style, str], str] | None = None
    priority: int = 0
    is_number: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], style: Style) -> Iterator[str]:
    """Yield an aligned table: heading first, numbers to the right, fitted to the terminal's width.

    Written here and not with rich, because a table of 10 000 rows has to be out within a few hundred milliseconds.
    """
    cells = [_clean_all(values) for values in zip(*rows, strict=True)] or [() for _ in columns]
    widths = [max(_widest(values), display_width(column.title)) for column, values in zip(columns, cells, strict=True)]
    shown = _fit(columns, widths, style.width)
    yield _line([style.dim(_pad(columns[i].title, widths[i], columns[i])) for i in shown])
    yield from map(_line, zip(*(_painted(cells[i], widths[i], columns[i], style) for i in shown), strict=True))
    hidden = [column.title for i, column in enumerate(columns) if i not in shown]
    if hidden:
        yield from (style.dim(line) for line in wrap(f"(narrow terminal: {', '.join(hidden)} not shown)", style.width))


def facts(rows: Iterable[tuple[str, str]], style: Style) -> Iterator[str]:
    """Yield ``label  value`` lines with aligned values; empty values are left out, long ones wrap."""
    kept = [(label, clean(value)) for label, value in rows if value]
    width = max((len(label) for label, _ in kept), default=0)
    for label, value in kept:
        room = None if style.width is None else max(style.width - width - _GAP, 12)
        first, *rest = fold(value, room)
        yield f"{style.dim(label.ljust(width))}{' ' * _GAP}{_paint_value(label, first, style)}"
        yield from (" " * (width + _GAP) + line for line in rest)


def _paint_value(label: str, value: str, style: Style) -> str:
    return style.stage(value) if label == "stage" else value


def fold(text: str, width: int | None) -> list[str]:
    """Wrap at spaces; words that are too long by themselves, such as digests, are cut hard and lose nothing."""
    if width is None:
        return [text]
    lines: list[str] = []
    for line in wrap(text, width):
        while display_width(line) > width:
            head = shorten(line, width + 1)[:-1] or line[:1]
            lines.append(head)
            line = line[len(head) :]  # noqa: PLW2901  # what is left of it
        lines.append(line)
    return lines


def _fit(columns: Sequence[Column], widths: list[int], width: int | None) -> list[int]:
    """Return which columns are shown; drops the least important and then narrows the widest one left, in `widths`."""
    shown = list(range(len(columns)))
    if width is None:
        return shown
    while _total(shown, widths) > width:
        droppable = [i for i in shown if columns[i].priority]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda i: (columns[i].priority, i)))
    overflow = _total(shown, widths) - width
    if overflow > 0:
        widest = max(shown, key=lambda i: widths[i])
        widths[widest] = max(widths[widest] - overflow, 8)
    return shown


def _total(shown: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[i] for i in shown) + _GAP * (len(shown) - 1)


def _is_plain(values: Sequence[str]) -> bool:
    """Whether no value needs a look at its letters; one test of a whole column is what makes long tables quick."""
    joined = "".join(values)
    return joined.isascii() and joined.isprintable()


def _clean_all(values: Sequence[str]) -> Sequence[str]:
    return values if _is_plain(values) else [clean(value) for value in values]


def _widest(values: Sequence[str]) -> int:
    return max(map(len if _is_plain(values) else display_width, values), default=0)


def _painted(values: Sequence[str], width: int, column: Column, style: Style) -> Iterable[str]:
    padded: Iterable[str]
    if _is_plain(values) and _widest(values) <= width:
        padded = [value.rjust(width) for value in values] if column.is_number else [v.ljust(width) for v in values]
    else:
        padded = [_pad(value, width, column) for value in values]
    paint = column.paint
    return [paint(style, text) for text in padded] if paint is not None and style.has_colour else padded


def _pad(text: str, width: int, column: Column) -> str:
    text = shorten(text, width)
    space = " " * (width - display_width(text))
    return space + text if column.is_number else text + space


def _line(cells: Sequence[str]) -> str:
    return (" " * _GAP).join(cells).rstrip()
