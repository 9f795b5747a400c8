"""What the keys of ``loractl top`` do: a pure function of what is asked to be seen, and of one key."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loractl.cli.style import Style
from loractl.cli.top_rows import SortBy

_LONGEST_TEXT = 80
_ENTER, _ESCAPE, _ERASE, _CLEAR = "\r\n", "\x1b", "\x7f\b", "\x15"


@dataclass(frozen=True, slots=True)
class Controls:
    """What is asked to be seen.

    Attributes:
        text: What names have to hold.
        is_typing: Keys are letters of `text`.
        has_ended: The user has seen enough.
    """

    sort: SortBy = SortBy.TOKENS
    text: str = ""
    is_paused: bool = False
    is_typing: bool = False
    has_ended: bool = False


def press(controls: Controls, key: str) -> Controls:
    """Return what holds after `key`."""
    if controls.is_typing:
        return _type(controls, key)
    match key:
        case "s":
            return replace(controls, sort=controls.sort.next)
        case "/":
            return replace(controls, is_typing=True)
        case "p" | " ":
            return replace(controls, is_paused=not controls.is_paused)
        case "q":
            return replace(controls, has_ended=True)
        case "\x1b":
            return replace(controls, text="")
        case _:
            return controls


def foot_line(controls: Controls, style: Style) -> str:
    """Return the line that says what the keys do and what they have done."""
    if controls.is_typing:
        return f"{style.command('filter:')} {controls.text}_  {style.dim('Enter keeps it, Esc clears it')}"
    words = [f"s sort: {controls.sort}", f"/ filter: {controls.text or 'none'}"]
    words += ["p go on" if controls.is_paused else "p pause", "q quit"]
    paused = f"  {style.warn('paused')}" if controls.is_paused else ""
    return f"{style.dim('  '.join(words))}{paused}"


def _type(controls: Controls, key: str) -> Controls:
    if key in _ENTER:
        return replace(controls, is_typing=False)
    if key == _ESCAPE:
        return replace(controls, is_typing=False, text="")
    if key == _CLEAR:
        return replace(controls, text="")
    if key in _ERASE:
        return replace(controls, text=controls.text[:-1])
    if key.isprintable() and len(controls.text) < _LONGEST_TEXT:
        return replace(controls, text=controls.text + key)
    return controls
