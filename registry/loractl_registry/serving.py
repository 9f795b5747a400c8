"""What may answer on a base: the rows that say so, as far as signed statements say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from loractl_registry._context import Context
from loractl_registry._store import audit, versions
from loractl_registry._store.audit import LiveEvent
from loractl_registry.errors import RegistryError
from loractl_registry.ledger.admissions import admissions_of, objection_to_base
from loractl_registry.ledger.chains import checked_chain, read_checkpoint
from loractl_registry.ledger.file_signatures import signature_objection
from loractl_registry.ledger.standing import Standing, Standings, objection_to
from loractl_registry.reading import earlier_numbers, live_stacks, stored_base
from loractl_registry.records import AdapterVersion, Base, ServingSnapshot, ServingTerms
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage
from loractl_registry.trust import Chain, MissingCheckpointError, TrustError

UNSIGNED = "nothing is signed in this home yet; sign for what is there with: loractl identity create NAME"


def snapshot(context: Context, base: str) -> ServingSnapshot:
    """Return what may answer on `base` at this moment.

    Where the chain or its checkpoint is not what was signed, nothing may.

    Raises:
        BaseNotFoundError: No such base.
    """
    seen = read_checkpoint(context)
    with context.database.reading() as connection:
        admitted = stored_base(context, base).base
        rows = versions.select(connection, context.path_of, stages=(Stage.APPROVED, Stage.LIVE), base=base)
        events = audit.live_events(connection)
        sequence = audit.last_sequence(connection)
        try:
            chain = checked_chain(context, connection, seen)
        except (TrustError, MissingCheckpointError) as error:
            return ServingSnapshot(sequence, admitted, (), {}, _all(rows, str(error)), _told(error))
        objection = UNSIGNED if chain is None else _objection_to(context, admitted, chain)
        if chain is None or objection is not None:
            return ServingSnapshot(sequence, admitted, (), {}, _all(rows, objection or UNSIGNED), objection)
        standings, now = Standings(chain), context.clock()
        refused = _objections(rows, standings, now)
        for version in rows:
            if version.ref not in refused:
                found = signature_objection(context, connection, chain, standings[version.ref], version)
                refused |= {} if found is None else {version.ref: found}
    servable = tuple(version for version in rows if version.ref not in refused)
    ends = [end for version in servable if (end := standings[version.ref].expires) is not None]
    until = min(ends, default=None)
    terms = {version.ref: _terms(standings[version.ref]) for version in servable}
    return ServingSnapshot(sequence, admitted, servable, _previously(servable, events), refused, None, until, terms)


def _terms(standing: Standing) -> ServingTerms:
    return replace(standing.terms, is_unreviewed=standing.break_glass is not None)


def _objection_to(context: Context, base: Base, chain: Chain) -> str | None:
    objection = objection_to_base(base, admissions_of(context, chain))
    return None if objection is None else f"base {base.name}: {objection}"


def _objections(rows: Sequence[AdapterVersion], standings: Standings, now: datetime) -> dict[VersionRef, str]:
    found: dict[VersionRef, str] = {}
    for version in rows:
        objection = objection_to(version, standings)
        if objection is None:
            end = standings[version.ref].expires
            if end is not None and now >= end:
                objection = f"what was signed for it expired on {end:%Y-%m-%dT%H:%M:%SZ}"
        if objection is not None:
            found[version.ref] = objection
    return found


def _all(rows: Sequence[AdapterVersion], reason: str) -> dict[VersionRef, str]:
    return {version.ref: reason for version in rows}


def _told(error: RegistryError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)


def _previously(servable: Sequence[AdapterVersion], events: tuple[LiveEvent, ...]) -> Mapping[str, tuple[int, ...]]:
    """Return per name what was live before and is approved still, newest first, where one is live now."""
    numbers: dict[str, dict[int, Stage]] = {}
    for version in servable:
        numbers.setdefault(version.ref.name, {})[version.ref.number] = version.stage
    previously: dict[str, tuple[int, ...]] = {}
    for name, stack in live_stacks(events).items():
        held = numbers.get(name, {})
        earlier = tuple(number for number in earlier_numbers(stack) if held.get(number) is Stage.APPROVED)
        if earlier and Stage.LIVE in held.values():
            previously[name] = earlier
    return previously
