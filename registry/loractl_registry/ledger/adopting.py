"""Signing for what a home held before anything was signed in it."""

from __future__ import annotations

from itertools import pairwise

from loractl_registry._store import bases, versions
from loractl_registry.ledger.admissions import adopt_base
from loractl_registry.ledger.pen import Pen
from loractl_registry.ledger.standing import objection_to
from loractl_registry.ledger.writing import Rung, sign_promotion, sign_step
from loractl_registry.records import AdapterVersion
from loractl_registry.stages import LADDER, Stage, Verb
from loractl_registry.trust import BaseRef, Inventory, InventoryStatement, OlderVersion, home_subject
from loractl_registry.trust.fields import MAX_ITEMS

REASON = "it was there before statements were signed"


def adopt(pen: Pen) -> None:
    """Sign for every base, and for every version where it stands by its row: the first identity vouches for them."""
    for base in bases.select(pen.connection):
        adopt_base(pen, base, REASON)
    for version in versions.select(pen.connection, pen.context.path_of):
        if version.stage is Stage.REVOKED:
            sign_step(pen, version, Verb.REVOKE, Stage.DRAFT, Stage.REVOKED, reason=REASON)
        elif version.base is not None and version.base_digest is not None:
            _adopt(pen, version, BaseRef(name=version.base, digest=version.base_digest))


def list_older(pen: Pen) -> None:
    """Sign which versions are from before additions were signed, so that no other is without an addition.

    In a chain that begins where another has begun before, which nobody adopts, these are only what is a draft.
    """
    rows = versions.select(pen.connection, pen.context.path_of)
    older = [OlderVersion(name=str(one.ref), digest=one.digest) for one in rows if _is_older(pen, one)]
    pages = [tuple(older[start : start + MAX_ITEMS]) for start in range(0, len(older), MAX_ITEMS)] or [()]
    for number, page in enumerate(pages, 1):
        place = pen.place()
        inventory = Inventory(**place, versions=page, is_last=number == len(pages), reason=REASON)
        pen.sign(InventoryStatement(subject=home_subject(place["home"]), predicate=inventory))


def _is_older(pen: Pen, version: AdapterVersion) -> bool:
    """Whether nobody signed that `version` was added, and its row is what was signed of it."""
    standing = pen.standings.get(version.ref)
    return (standing is None or standing.addition is None) and objection_to(version, pen.standings) is None


def _adopt(pen: Pen, version: AdapterVersion, base: BaseRef) -> None:
    match version.stage:
        case Stage.REJECTED:
            _climb(pen, version, base, Stage.CANDIDATE)
            sign_step(pen, version, Verb.REJECT, Stage.CANDIDATE, Stage.REJECTED, reason=REASON)
        case Stage.RETIRED:
            _climb(pen, version, base, Stage.APPROVED)
            sign_step(pen, version, Verb.RETIRE, Stage.APPROVED, Stage.RETIRED, reason=REASON)
        case _:
            _climb(pen, version, base, version.stage)


def _climb(pen: Pen, version: AdapterVersion, base: BaseRef, to: Stage) -> None:
    reached = LADDER[: LADDER.index(to) + 1]
    for before, after in pairwise(reached):
        rung = Rung(version, base, before, after)
        sign_promotion(pen, rung, pen.policy.digest, decision=None, approvals=(), reason=REASON)
