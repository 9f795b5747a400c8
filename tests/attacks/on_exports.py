"""Attacks on the record of a home that somebody hands to an auditor."""

from __future__ import annotations

import json
from collections.abc import Callable

from attacks.acting import run
from attacks.declaring import Attack, Deed, Has, Threat
from attacks.on_store import VERIFIED
from attacks.scene import Scene

VERIFY = run("audit verify --export {file} --key {key}")
Lines = list[list[object]]


def _exported(scene: Scene) -> None:
    """Export the record, and have the auditor know the public key of the first identity."""
    scene.key_file = scene.public_key("ada")
    done = scene.run(["audit", "export", str(scene.file)], "ada")
    assert done.code == 0, done.err


def lines(change: Callable[[Lines], Lines]) -> Deed:
    """Change the lines of the record."""

    def spoil(scene: Scene) -> None:
        held = [json.loads(line) for line in scene.file.read_bytes().splitlines()]
        spelled = (json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in change(held))
        scene.file.write_text("\n".join(spelled) + "\n", encoding="utf-8")

    return spoil


def _nth(held: Lines, kind: str, number: int) -> int:
    """Return where the line of this kind and number is, counted from 0 and back from the end if negative."""
    return [place for place, line in enumerate(held) if line[0] == kind][number]


def without(kind: str, number: int) -> Deed:
    """Leave a line out."""

    def change(held: Lines) -> Lines:
        place = _nth(held, kind, number)
        return held[:place] + held[place + 1 :]

    return lines(change)


def swapped(kind: str, number: int) -> Deed:
    """Swap a line with the next."""

    def change(held: Lines) -> Lines:
        place = _nth(held, kind, number)
        return [*held[:place], held[place + 1], held[place], *held[place + 2 :]]

    return lines(change)


def _by_eve(held: Lines) -> Lines:
    """Write another actor into an event."""
    place = _nth(held, "event", 5)
    edited = json.loads(json.dumps(held[place]).replace('"ada"', '"eve"', 1))
    return [*held[:place], edited, *held[place + 1 :]]


def _of_another(scene: Scene) -> None:
    scene.file.unlink()
    other = Scene(scene.root / "other")
    (scene.root / "other").mkdir()
    scene.outsider.rename(other.home)
    done = other.run(["audit", "export", str(scene.file)], "eve")
    assert done.code == 0, done.err


def export(id_: str, deed: str, spoil: Deed, says: str, code: str = VERIFIED) -> Attack:
    """Return an attack on an exported record."""
    return Attack(id_, Threat.EXPORT, Has.RECORD, deed, spoil, VERIFY, code, says, given=_exported)


ATTACKS = (
    export("export-event-edited", "Write another actor into an event", lines(_by_eve), "audit row"),
    export("export-event-left-out", "Leave an event out", without("event", 5), "audit row"),
    export("export-events-swapped", "Swap two events", swapped("event", 5), "audit row"),
    export("export-statement-left-out", "Leave a statement out", without("statement", 4), "where sequence 5 must"),
    export("export-statements-swapped", "Swap two statements", swapped("statement", 4), "where sequence 5 must"),
    export("export-cut", "Leave the newest statement out", without("statement", -1), "a signed checkpoint has seen"),
    export(
        "export-of-another-home",
        "Hand over the record of another home",
        _of_another,
        "it is the record of home",
    ),
    export(
        "export-malformed",
        "Cut the file in the middle of a line",
        lambda scene: scene.file.write_bytes(scene.file.read_bytes()[:1000]),
        "line",
        "registry.audit_record",
    ),
)
