"""One write transaction that moves versions: each move is a row, a signed statement and an audit event."""

from __future__ import annotations

from dataclasses import replace

from loractl_registry._faults import reach
from loractl_registry._store import audit, bases, versions
from loractl_registry._store.audit import BREAK_GLASS, NewEvent
from loractl_registry.climbing import Evidence
from loractl_registry.clock import to_text
from loractl_registry.ledger.admissions import require_admitted
from loractl_registry.ledger.errors import DisagreementError, StandingExpiredError
from loractl_registry.ledger.grounds import grounds_of
from loractl_registry.ledger.judging import approval_facts, standing_approvals
from loractl_registry.ledger.pen import Pen
from loractl_registry.ledger.soundness import require_sound
from loractl_registry.ledger.standing import objection_to
from loractl_registry.ledger.writing import Rung, sign_break_glass, sign_promotion, sign_step
from loractl_registry.outcomes import Promotion
from loractl_registry.policies import Verdict
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import VersionRef
from loractl_registry.refusals import RevokedBytesError
from loractl_registry.stages import Stage, Verb
from loractl_registry.trust import BaseRef, to_the_second

PROMOTE = "adapter.promote"


class Step:
    """Moves versions inside one signed transaction."""

    def __init__(self, pen: Pen, reason: str | None) -> None:
        self._pen, self._connection, self._context = pen, pen.connection, pen.context
        self._reason = reason

    def climb(self, seen: AdapterVersion, evidence: Evidence) -> Promotion:
        """Enter every rung of `evidence`, in order."""
        self.require_sound(seen)
        if evidence.binds:
            self._bind(seen, evidence.base)
        stage, replaced = seen.stage, None
        for rung in evidence.rungs:
            if rung is Stage.LIVE:
                replaced = self.make_way(seen.ref)
            found = {"preflight": str(evidence.preflight)} if rung is Stage.CANDIDATE else {}
            self.up(seen, evidence, stage, rung, action=PROMOTE, **found)
            stage = rung
        reach("promote.before_commit")
        return Promotion(self.read(seen.ref), seen.stage, evidence.rungs, replaced, evidence.preflight)

    def break_glass(self, seen: AdapterVersion, evidence: Evidence, reason: str) -> Promotion:
        """Enter the last rung of `evidence` at once, without what the policy asks of the ones below, for some hours."""
        self.require_signed(seen)
        if evidence.binds:
            self._bind(seen, evidence.base)
        pen, base, to = self._pen, evidence.base.base, evidence.rungs[-1]
        require_admitted(pen.context, pen.chain, base)
        judge, facts = replace(pen.judge, break_glass=reason), pen.facts(seen)
        decision = judge.require(seen, base, to, facts=facts, approvals=(), now=pen.at)
        assert decision.expires is not None  # noqa: S101  # the policy says for how many hours
        replaced = self.make_way(seen.ref) if to is Stage.LIVE else None
        expires = to_the_second(decision.expires)
        rung = Rung(seen, BaseRef(name=base.name, digest=base.digest), seen.stage, to)
        detail = {
            "statement": sign_break_glass(
                pen, rung, decision, grounds=grounds_of(pen.policy, facts), expires=expires, reason=reason
            ),
            "signer": pen.acting.name,
            "policy": decision.policy_digest,
            "decision": decision.digest,
            "expires": to_text(expires),
            "waived": [one.rule for one in decision.findings if one.verdict is Verdict.WAIVED],
        }
        self._enter(seen, seen.stage, to, action=BREAK_GLASS, **detail)
        return Promotion(self.read(seen.ref), seen.stage, evidence.rungs, replaced, evidence.preflight)

    def up(
        self, version: AdapterVersion, evidence: Evidence, before: Stage, after: Stage, *, action: str, **detail: object
    ) -> None:
        """Enter one rung, if the policy allows it to the one who signs."""
        pen, base = self._pen, evidence.base.base
        place = pen.place()
        require_admitted(pen.context, pen.chain, base)
        counted = standing_approvals(pen.chain, pen.standing(version.ref, version.digest), pen.at)
        facts, approvals = pen.facts(version), approval_facts(pen.chain, counted)
        decision = pen.judge.require(version, base, after, facts=facts, approvals=approvals, now=pen.at)
        statement = sign_promotion(
            pen,
            Rung(version, BaseRef(name=base.name, digest=base.digest), before, after),
            decision.policy_digest,
            decision=decision,
            approvals=tuple(one.statement for one in counted),
            reason=self._reason,
            grounds=grounds_of(pen.policy, facts),
        )
        signed = {"statement": statement, "policy": decision.policy_digest, "decision": decision.digest}
        self._enter(version, before, after, action=action, signer=place["signer"].identity, **signed, **detail)

    def down(
        self, version: AdapterVersion, verb: Verb, after: Stage, *, action: str, reason: str, **detail: object
    ) -> None:
        """Go down or out.

        Raises:
            DisagreementError: The row is not what was signed. Revoking is always possible.
        """
        pen = self._pen
        place = pen.place()
        objection = objection_to(version, pen.standings)
        if objection is not None and verb is not Verb.REVOKE:
            raise DisagreementError(version.ref, objection)
        before = version.stage if objection is None else pen.standing(version.ref, version.digest).stage
        if before is not Stage.REVOKED:
            detail["statement"] = sign_step(pen, version, verb, before, after, reason=reason)
        self._enter(version, version.stage, after, action=action, signer=place["signer"].identity, **detail)

    def make_way(self, successor: VersionRef) -> VersionRef | None:
        """Demote what is live now to approved; a row that only says so goes back to where the statements have it."""
        live = versions.find_live(self._connection, self._context.path_of, successor.name)
        if live is None:
            return None
        pen, replaced_by, demote = self._pen, str(successor), "adapter.demote"
        pen.place()
        signed = pen.standing(live.ref, live.digest).stage
        if signed is Stage.LIVE:
            why = self._reason or f"replaced by {successor}"
            self.down(live, Verb.DEMOTE, Stage.APPROVED, action=demote, reason=why, replaced_by=replaced_by)
            return live.ref
        self._enter(live, Stage.LIVE, signed, action=demote, replaced_by=replaced_by, was_unsigned=True)
        return None

    def require_sound(self, version: AdapterVersion) -> None:
        """Return if a climb may build on what the row says.

        Raises:
            DisagreementError: The row is not what was signed, or a signature over the files is not.
            QuarantinedError: Its newest scan failed.
            RevokedBytesError: The same bytes were revoked, by a row or by a statement.
            StandingExpiredError: It is approved, and no longer.
        """
        self.require_signed(version)
        end = self._pen.standing(version.ref, version.digest).approved_until
        if version.stage is Stage.APPROVED and end is not None and self._pen.at >= end:
            raise StandingExpiredError(version.ref, end)

    def require_signed(self, version: AdapterVersion) -> None:
        """Return if the row is what was signed, and nobody revoked the bytes.

        Raises:
            DisagreementError, RevokedBytesError: As `require_sound` says.
        """
        self._pen.place()  # it begins the chain where nothing was signed yet
        require_sound(self._context, self._connection, self._pen.chain, self._pen.standings, version)
        by_row = versions.refs_of(self._connection, version.digest, stages=(Stage.REVOKED,))
        signed = self._pen.standings.revoked().get(version.digest)
        if by_row or signed is not None:
            raise RevokedBytesError(version.ref, by_row[0] if by_row else signed or version.ref)

    def read(self, ref: VersionRef) -> AdapterVersion:
        """Return the version as this transaction leaves it."""
        return get_version(self._context, ref)

    def _enter(self, version: AdapterVersion, before: Stage, after: Stage, *, action: str, **detail: object) -> None:
        """Move the row and write it down."""
        versions.set_stage(self._connection, version.ref, after)
        pen = self._pen
        event = NewEvent(action, str(version.ref), pen.actor, pen.at, before, after, self._reason, detail)
        audit.append(self._connection, event)

    def _bind(self, version: AdapterVersion, base: bases.StoredBase) -> None:
        versions.bind_base(self._connection, version.ref, base.row_id)
        detail = {"base": base.base.name, "base_digest": base.base.digest}
        event = NewEvent("adapter.bind", str(version.ref), self._pen.actor, self._pen.at, detail=detail)
        audit.append(self._connection, event)
