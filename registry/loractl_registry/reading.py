"""Questions that change nothing, each answered in one read transaction."""

from __future__ import annotations

from datetime import datetime

from loractl_registry._context import Context
from loractl_registry._store import audit, bases, versions
from loractl_registry._store.audit import LiveEvent
from loractl_registry.clock import from_text
from loractl_registry.records import AdapterVersion, AuditEvent, Base, Manifest, VersionSummary
from loractl_registry.refs import Ref, VersionRef, parse_name
from loractl_registry.refusals import AdapterNotFoundError, BaseNotFoundError, NotLiveError, VersionNotFoundError
from loractl_registry.stages import Stage

ROLLBACK = "adapter.rollback"


def list_bases(context: Context) -> tuple[Base, ...]:
    """Return every admitted base, sorted by name."""
    with context.database.reading() as connection:
        return bases.select(connection)


def get_base(context: Context, name: str) -> Base:
    """Return the admitted base `name`.

    Raises:
        BaseNotFoundError: There is none.
    """
    return stored_base(context, name).base


def stored_base(context: Context, name: str) -> bases.StoredBase:
    """Return the admitted base `name` with its manifest.

    Raises:
        BaseNotFoundError: There is none.
    """
    with context.database.reading() as connection:
        stored = bases.find(connection, parse_name(name))
    if stored is None:
        raise BaseNotFoundError(name)
    return stored


def list_versions(
    context: Context, *, name: str | None, stage: Stage | None, base: str | None
) -> tuple[AdapterVersion, ...]:
    """Return the versions that match every given filter, sorted by ref."""
    with context.database.reading() as connection:
        stages = () if stage is None else (stage,)
        return versions.select(connection, context.path_of, name=name, stages=stages, base=base)


def list_summaries(
    context: Context, *, name: str | None, stage: Stage | None, base: str | None
) -> list[VersionSummary]:
    """Return what a list shows of the versions that match every given filter, sorted by ref."""
    with context.database.reading() as connection:
        return versions.summaries(connection, name=name, stages=() if stage is None else (stage,), base=base)


def broken_glass(context: Context) -> dict[VersionRef, datetime]:
    """Return until when versions are approved for which the glass was broken and nobody has approved since."""
    with context.database.reading() as connection:
        found = audit.broken_glass(connection)
    held: dict[VersionRef, datetime] = {}
    for subject, expires in found.items():
        name, _, number = subject.partition("@")
        held[VersionRef(name, int(number))] = from_text(expires)
    return held


def get_version(context: Context, ref: Ref | VersionRef) -> AdapterVersion:
    """Return the version that `ref` means; a bare name means the live one.

    Raises:
        NotLiveError: A bare name, and none is live.
        VersionNotFoundError: No such number or no such name.
    """
    with context.database.reading() as connection:
        if ref.number is not None:
            found = versions.find(connection, context.path_of, VersionRef(ref.name, ref.number))
        else:
            found = versions.find_live(connection, context.path_of, ref.name)
        if found is None and ref.number is None and versions.has_name(connection, ref.name):
            raise NotLiveError(ref.name)
    if found is None:
        raise VersionNotFoundError(ref)
    return found


def get_manifest(context: Context, ref: Ref | VersionRef) -> Manifest:
    """Return the files of the version that `ref` means; raises as `get_version` does."""
    with context.database.reading() as connection:
        return versions.manifest_of(connection, get_version(context, ref).digest)


def list_events(context: Context, name: str | None, *, until: datetime | None) -> tuple[AuditEvent, ...]:
    """Return the audit events of one adapter or base, or all, oldest first.

    Raises:
        AdapterNotFoundError: Nothing ever had this name.
    """
    with context.database.reading() as connection:
        found = audit.events(connection, name=name, until=until)
        if not found and name is not None and not audit.events(connection, name=name):
            raise AdapterNotFoundError(name)
    return found


def live_at(context: Context, moment: datetime) -> tuple[VersionRef, ...]:
    """Return the versions that were live at `moment`, sorted."""
    with context.database.reading() as connection:
        events = audit.live_events(connection, until=moment)
    live: dict[str, VersionRef] = {}
    for event in events:
        if event.entered:
            live[event.ref.name] = event.ref
        else:
            live.pop(event.ref.name, None)
    return tuple(sorted(live.values()))


def live_stacks(events: tuple[LiveEvent, ...]) -> dict[str, list[int]]:
    """Return per name the numbers that were live, the newest last.

    A promotion adds to the end; a rollback takes away everything above the version that it returned to, so that two
    rollbacks go back twice and never forth.
    """
    stacks: dict[str, list[int]] = {}
    for event in events:
        if not event.entered:
            continue
        stack = stacks.setdefault(event.ref.name, [])
        if event.action == ROLLBACK:
            # The top is what was rolled back from, never what it returned to.
            below = stack[:-1]
            while below and below[-1] != event.ref.number:
                below.pop()
            stack[:] = below or [event.ref.number]
        else:
            stack.append(event.ref.number)
    return stacks


def earlier_numbers(stack: list[int]) -> tuple[int, ...]:
    """Return what was live before the newest of `stack`, newest first, each once, without the newest itself."""
    below = reversed(stack[:-1])
    return tuple(number for number in dict.fromkeys(below) if number != stack[-1])
