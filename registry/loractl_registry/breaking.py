"""Breaking the glass: an operator takes a version up without what the policy asks for, and it ends by itself."""

from __future__ import annotations

from loractl_registry._context import Context
from loractl_registry._store import versions
from loractl_registry.actors import parse_actor, require_reason
from loractl_registry.climbing import gather_evidence, rungs_of
from loractl_registry.ledger.pen import signed_writing
from loractl_registry.outcomes import Promotion
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import StageError
from loractl_registry.stages import Stage
from loractl_registry.stepping import Step


def break_glass(context: Context, ref: Ref | VersionRef, *, actor: str, reason: str, to: Stage | None) -> Promotion:
    """Take a version to a servable stage for some hours; see `Governing.break_glass`.

    Hashing and preflight run before the write transaction, which then looks again.
    """
    actor, reason = parse_actor(actor), require_reason(f"break the glass for {ref}", reason)
    while True:
        seen = get_version(context, ref)
        rungs = rungs_of(seen, _target(seen, to))
        if not rungs:
            raise StageError("break the glass for", seen.ref, seen.stage, f"it is {seen.stage} already")
        evidence = gather_evidence(context, seen, rungs, actor=actor, break_glass=reason)
        with signed_writing(context, actor=actor) as pen:
            if versions.find(pen.connection, context.path_of, seen.ref) != seen:
                continue
            return Step(pen, reason).break_glass(seen, evidence, reason)


def _target(version: AdapterVersion, to: Stage | None) -> Stage:
    if to is None:
        return Stage.LIVE if version.stage.is_servable else Stage.APPROVED
    if not to.is_servable:
        hint = f"nothing is served from {to}; promote it: loractl promote {version.ref}"
        raise StageError(f"break the glass to {to} for", version.ref, version.stage, hint)
    return to
