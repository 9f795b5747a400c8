"""The verbs that move a version from stage to stage, each one transaction with one audit event per change."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._store import audit, bases, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor, parse_reason, require_reason
from loractl_registry.climbing import Evidence, gather_evidence, rungs_of
from loractl_registry.outcomes import Promotion, StageChange
from loractl_registry.reading import ROLLBACK, earlier_numbers, get_version, live_stacks
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref, VersionRef, parse_name
from loractl_registry.refusals import (
    AdapterNotFoundError,
    NothingToRollBackError,
    RevokedBytesError,
    StageError,
    VersionNotFoundError,
)
from loractl_registry.stages import Stage, Verb, sources_of, target_of

PROMOTE = "adapter.promote"


def promote(context: Context, ref: Ref, *, actor: str, to: Stage | None, reason: str | None) -> Promotion:
    """Climb one rung, or up to `to`; see `Registry.promote`.

    Hashing and preflight run before the write transaction, which then looks again: a version that somebody else has
    moved meanwhile is judged anew.
    """
    actor, reason = parse_actor(actor), parse_reason(reason)
    while True:
        seen = get_version(context, ref)
        rungs = rungs_of(seen, to)
        if not rungs:
            return Promotion(seen, seen.stage, (), None, None)
        evidence = gather_evidence(context, seen, rungs, actor=actor)
        with context.database.writing() as connection:
            if versions.find(connection, context.path_of, seen.ref) != seen:
                continue
            step = _Step(connection, context, actor, context.clock(), reason)
            return step.climb(seen, evidence)


def rollback(context: Context, name: str, *, actor: str, reason: str | None) -> Promotion:
    """Make the newest earlier live version that is still approved live again; see `Registry.rollback`."""
    actor, reason = parse_actor(actor), parse_reason(reason)
    while True:
        target = _rollback_target(context, parse_name(name))
        gather_evidence(context, target, (Stage.LIVE,), actor=actor)
        with context.database.writing() as connection:
            if _rollback_target(context, name) != target:
                continue
            step = _Step(connection, context, actor, context.clock(), reason)
            _refuse_revoked_bytes(connection, target)
            replaced = step.make_way(target.ref)
            step.enter(target, Stage.APPROVED, Stage.LIVE, action=ROLLBACK)
            version = step.read(target.ref)
        return Promotion(version, Stage.APPROVED, (Stage.LIVE,), replaced, None)


def step_down(context: Context, ref: Ref, verb: Verb, *, actor: str, reason: str) -> StageChange:
    """Do one of the verbs that lead down or out; see `Registry.demote` and its neighbours."""
    actor, reason = parse_actor(actor), require_reason(f"{verb} {ref}", reason)
    with context.database.writing() as connection:
        seen = get_version(context, ref)
        target = target_of(verb, seen.stage)
        if target is None:
            if verb is not Verb.DEMOTE and seen.stage is target_of(verb, sources_of(verb)[0]):
                return StageChange(seen, seen.stage)
            raise StageError(verb, seen.ref, seen.stage, _way_out(verb, seen))
        step = _Step(connection, context, actor, context.clock(), reason)
        step.enter(seen, seen.stage, target, action=f"adapter.{verb}")
        reach("lifecycle.before_commit")
        same = versions.refs_of(connection, seen.digest, stages=(Stage.APPROVED, Stage.LIVE))
        return StageChange(step.read(seen.ref), seen.stage, tuple(other for other in same if other != seen.ref))


def record_refusal(context: Context, ref: VersionRef, *, actor: str, reason: str, detail: dict[str, object]) -> None:
    """Write down that something refused to use `ref`; its stage does not change."""
    actor, reason = parse_actor(actor), require_reason(f"refuse {ref}", reason)
    with context.database.writing() as connection:
        version = versions.find(connection, context.path_of, ref)
        if version is None:
            raise VersionNotFoundError(ref)
        event = NewEvent("adapter.refused", str(ref), actor, context.clock(), reason=reason, detail=detail)
        audit.append(connection, event)


class _Step:
    """One write transaction that moves versions and writes each move down."""

    def __init__(
        self, connection: sqlite3.Connection, context: Context, actor: str, at: datetime, reason: str | None
    ) -> None:
        self._connection, self._context = connection, context
        self._actor, self._at, self._reason = actor, at, reason

    def climb(self, seen: AdapterVersion, evidence: Evidence) -> Promotion:
        """Enter every rung of `evidence`, in order."""
        _refuse_revoked_bytes(self._connection, seen)
        if evidence.binds is not None:
            self._bind(seen, evidence.binds)
        stage, replaced = seen.stage, None
        for rung in evidence.rungs:
            if rung is Stage.LIVE:
                replaced = self.make_way(seen.ref)
            found = {"preflight": str(evidence.preflight)} if rung is Stage.CANDIDATE else {}
            self.enter(seen, stage, rung, action=PROMOTE, **found)
            stage = rung
        reach("promote.before_commit")
        return Promotion(self.read(seen.ref), seen.stage, evidence.rungs, replaced, evidence.preflight)

    def make_way(self, successor: VersionRef) -> VersionRef | None:
        """Demote what is live now to approved."""
        live = versions.find_live(self._connection, self._context.path_of, successor.name)
        if live is None:
            return None
        self.enter(live, Stage.LIVE, Stage.APPROVED, action="adapter.demote", replaced_by=str(successor))
        return live.ref

    def enter(self, version: AdapterVersion, before: Stage, after: Stage, *, action: str, **detail: object) -> None:
        """Move `version` and write it down."""
        versions.set_stage(self._connection, version.ref, after)
        event = NewEvent(action, str(version.ref), self._actor, self._at, before, after, self._reason, detail)
        audit.append(self._connection, event)

    def read(self, ref: VersionRef) -> AdapterVersion:
        """Return the version as this transaction leaves it."""
        return get_version(self._context, ref)

    def _bind(self, version: AdapterVersion, base: bases.StoredBase) -> None:
        versions.bind_base(self._connection, version.ref, base.row_id)
        detail = {"base": base.base.name, "base_digest": base.base.digest}
        event = NewEvent("adapter.bind", str(version.ref), self._actor, self._at, detail=detail)
        audit.append(self._connection, event)


def _refuse_revoked_bytes(connection: sqlite3.Connection, version: AdapterVersion) -> None:
    revoked = versions.refs_of(connection, version.digest, stages=(Stage.REVOKED,))
    if revoked:
        raise RevokedBytesError(version.ref, revoked[0])


def _rollback_target(context: Context, name: str) -> AdapterVersion:
    with context.database.reading() as connection:
        stack = live_stacks(audit.live_events(connection, name=name)).get(name, [])
        for number in earlier_numbers(stack):
            version = versions.find(connection, context.path_of, VersionRef(name, number))
            if version is not None and version.stage is Stage.APPROVED:
                return version
        if not versions.has_name(connection, name):
            raise AdapterNotFoundError(name)
    raise NothingToRollBackError(name)


def _way_out(verb: Verb, version: AdapterVersion) -> str:
    stages = " or ".join(sources_of(verb))
    if version.stage is Stage.REVOKED:
        return "revoked is for good; add another version"
    return f"{verb} takes a version that is {stages}; see: loractl show {version.ref}"
