"""What a climb takes: rungs, signed standing, base, policy, untouched bytes, and preflight at candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loractl_registry._context import Context
from loractl_registry._store import bases, versions
from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.binding import choose_base
from loractl_registry.home_errors import os_errors_named
from loractl_registry.records import AdapterVersion, Base
from loractl_registry.refusals import BaseGoneError, DamagedFilesError, NoBaseError, StageError
from loractl_registry.row_facts import require_true_facts
from loractl_registry.stages import LADDER, Stage, climb

if TYPE_CHECKING:
    from loractl_registry.preflight import PreflightReport

ALWAYS_HASHED_BYTES = 64 * 2**20
"""Up to this size the bytes are hashed at every rung; above it, at candidate and at live."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found out before the write transaction.

    Attributes:
        base: The base that it climbs on.
        binds: Whether the version is yet to be bound to it.
    """

    rungs: tuple[Stage, ...]
    base: bases.StoredBase
    binds: bool
    preflight: PreflightReport | None


def rungs_of(version: AdapterVersion, to: Stage | None) -> tuple[Stage, ...]:
    """Return the rungs that a promotion of `version` enters, none if it is there already.

    Raises:
        StageError: No climb leads there.
    """
    rungs = climb(version.stage, to)
    if rungs is None:
        verb = "promote" if to is None else f"promote to {to}"
        raise StageError(verb, version.ref, version.stage, _way_out(version, to))
    return rungs


def gather_evidence(
    context: Context, version: AdapterVersion, rungs: Sequence[Stage], *, actor: str, break_glass: str | None = None
) -> Evidence:
    """Check everything that a climb over `rungs` takes, without changing anything.

    With a reason to break the glass, the policy is asked about the last rung alone.

    Raises:
        DeniedError: A subclass that says which check said no.
    """
    base, is_new = base_of(context, version)
    asked = rungs if break_glass is None else rungs[-1:]
    _require_allowed(context, version, base.base, asked, actor=actor, break_glass=break_glass)
    if version.size_bytes <= ALWAYS_HASHED_BYTES or Stage.CANDIDATE in rungs or Stage.LIVE in rungs:
        require_intact(context, version)
    report = _preflight(version, base) if Stage.CANDIDATE in rungs else None
    return Evidence(tuple(rungs), base, is_new, report)


def _require_allowed(
    context: Context,
    version: AdapterVersion,
    base: Base,
    rungs: Sequence[Stage],
    *,
    actor: str,
    break_glass: str | None,
) -> None:
    """Ask the policy before anything is hashed; the write transaction asks again."""
    from loractl_registry.ledger.admissions import require_admitted
    from loractl_registry.ledger.chains import read_checkpoint, resumed_chain  # cryptography, for who signs alone
    from loractl_registry.ledger.facts import facts_of
    from loractl_registry.ledger.identities import acting_identity
    from loractl_registry.ledger.judging import Judge, approval_facts, home_policy, standing_approvals
    from loractl_registry.ledger.soundness import require_sound
    from loractl_registry.ledger.standing import Standings

    seen, now = read_checkpoint(context), context.clock()
    with context.database.reading() as connection:
        chain = resumed_chain(context, connection, seen)
        if chain is not None:
            require_admitted(context, chain, base)
        standings = Standings(chain)
        require_sound(context, connection, chain, standings, version)
        facts = facts_of(context, connection, chain, standings.get(version.ref), version)
    policy = home_policy(context)
    acting = acting_identity(context, chain, policy, actor=actor)
    judge = Judge(policy, acting.name, acting.roles, break_glass=break_glass)
    approvals = approval_facts(chain, standing_approvals(chain, standings.get(version.ref), now))
    for rung in rungs:
        judge.require(version, base, rung, facts=facts, approvals=approvals, now=now)


def require_intact(context: Context, version: AdapterVersion) -> None:
    """Hash the stored files of `version`, and compare what the database says of them.

    Raises:
        DamagedFilesError: They are not the ones that were added.
        RowFactsError: The database says another rank or size than they have.
    """
    with context.database.reading() as connection:
        manifest = versions.manifest_of(connection, version.digest)
    if damaged := context.contents.verify(version.digest, manifest):
        raise DamagedFilesError(version.ref, damaged)
    require_true_facts(version, manifest)


def preview(context: Context, version: AdapterVersion) -> PreflightReport:
    """Run preflight without reading a value; see `Registry.preflight`."""
    from loractl_registry.adapter_config import read_adapter_config  # pydantic, which listing does without
    from loractl_registry.preflight import check_adapter
    from loractl_registry.safetensors_header import open_safetensors_header

    base, _ = base_of(context, version)
    weights = version.path / WEIGHTS
    with os_errors_named(weights):
        return check_adapter(
            open_safetensors_header(weights).tensors, read_adapter_config(version.path), base.base.config
        )


def _preflight(version: AdapterVersion, base: bases.StoredBase) -> PreflightReport:
    from loractl_registry.preflight import check_stored  # a third of all imports, for one rung

    return check_stored(version.path, base.base.config)


def base_of(context: Context, version: AdapterVersion) -> tuple[bases.StoredBase, bool]:
    """Return the base that `version` climbs on, and whether it is yet to be bound to it.

    Raises:
        BaseGoneError: The base that it is bound to is not admitted any more.
        NoBaseError: It is bound to none, and none can be chosen for it.
    """
    with context.database.reading() as connection:
        if version.base is not None and version.base_digest is not None:
            held = bases.find(connection, version.base)
            if held is None or held.base.digest != version.base_digest:
                raise BaseGoneError(version.ref, version.base, version.base_digest)
            return held, False
        chosen = choose_base(bases.select(connection), None, version.facts.declared_base)
        found = None if chosen is None else bases.find(connection, chosen.name)
        if found is None:
            names = [base.name for base in bases.select(connection)]
            raise NoBaseError(version.ref, version.facts.declared_base, names)
        return found, True


def _way_out(version: AdapterVersion, to: Stage | None) -> str:
    match version.stage:
        case Stage.REVOKED:
            return "revoked is for good; add another version"
        case Stage.REJECTED:
            return "add a corrected version under the same name"
        case _ if to in LADDER:
            return f"promote climbs; to go down: loractl demote {version.ref} --reason TEXT"
        case _:
            return "promote leads to candidate, approved or live"
