"""The verbs that move a version from stage to stage: one transaction, one signed statement and audit event a change.

Imports cryptography and pydantic; the registry imports it when one of its verbs is called.
"""

from __future__ import annotations

from loractl_registry._context import Context
from loractl_registry._faults import reach
from loractl_registry._store import audit, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor, parse_reason, require_reason
from loractl_registry.climbing import gather_evidence, rungs_of
from loractl_registry.ledger.pen import signed_writing
from loractl_registry.outcomes import Promotion, StageChange
from loractl_registry.reading import ROLLBACK, earlier_numbers, get_version, live_stacks
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref, VersionRef, parse_name
from loractl_registry.refusals import (
    AdapterNotFoundError,
    NothingToRollBackError,
    StageError,
    VersionNotFoundError,
)
from loractl_registry.stages import Stage, Verb, sources_of, target_of
from loractl_registry.stepping import Step


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
        with signed_writing(context, actor=actor) as pen:
            if versions.find(pen.connection, context.path_of, seen.ref) != seen:
                continue
            return Step(pen, reason).climb(seen, evidence)


def rollback(context: Context, name: str, *, actor: str, reason: str | None) -> Promotion:
    """Make the newest earlier live version that is still approved live again; see `Registry.rollback`."""
    actor, reason = parse_actor(actor), parse_reason(reason)
    while True:
        target = _rollback_target(context, parse_name(name))
        evidence = gather_evidence(context, target, (Stage.LIVE,), actor=actor)
        with signed_writing(context, actor=actor) as pen:
            if _rollback_target(context, name) != target:
                continue
            step = Step(pen, reason)
            step.require_sound(target)
            replaced = step.make_way(target.ref)
            step.up(target, evidence, Stage.APPROVED, Stage.LIVE, action=ROLLBACK)
            version = step.read(target.ref)
        return Promotion(version, Stage.APPROVED, (Stage.LIVE,), replaced, None)


def step_down(context: Context, ref: Ref, verb: Verb, *, actor: str, reason: str) -> StageChange:
    """Do one of the verbs that lead down or out; see `Registry.demote` and its neighbours."""
    actor, reason = parse_actor(actor), require_reason(f"{verb} {ref}", reason)
    with signed_writing(context, actor=actor) as pen:
        seen = get_version(context, ref)
        target = target_of(verb, seen.stage)
        if target is None:
            if verb is not Verb.DEMOTE and seen.stage is target_of(verb, sources_of(verb)[0]):
                return StageChange(seen, seen.stage)
            raise StageError(verb, seen.ref, seen.stage, _way_out(verb, seen))
        step = Step(pen, reason)
        step.down(seen, verb, target, action=f"adapter.{verb}", reason=reason)
        reach("lifecycle.before_commit")
        same = versions.refs_of(pen.connection, seen.digest, stages=(Stage.APPROVED, Stage.LIVE))
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
