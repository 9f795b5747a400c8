"""Signing that somebody is trusted with roles, or is so no more."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from loractl_registry._store import audit
from loractl_registry._store.audit import NewEvent
from loractl_registry.ledger.pen import Pen
from loractl_registry.trust import (
    Account,
    AccountStatement,
    AccountTrust,
    Grant,
    IdentityChange,
    IdentityStatement,
    IdentityVerb,
    PublicKey,
    Role,
    identity_subject,
)


def grants_of(pen: Pen) -> tuple[Grant, ...]:
    """Return who is and was trusted with what, as the transaction has it."""
    return () if pen.chain is None else pen.chain.trust.grants


def sign_change(
    pen: Pen,
    name: str,
    verb: IdentityVerb,
    key_id: str,
    key: PublicKey | None,
    roles: tuple[Role, ...],
    reason: str | None,
) -> None:
    """Sign that a key is trusted with `roles`, or revoked; write it down in the audit log.

    Raises:
        TrustError: The one who acts may not say so, or it contradicts what is there.
    """
    place, public_key = pen.place(), None if key is None else key.pem
    change = IdentityChange(**place, verb=verb, roles=roles, public_key=public_key, reason=reason)
    statement = IdentityStatement(subject=identity_subject(name, key_id), predicate=change)
    _write_down(pen, statement, roles, reason)


def sign_account(pen: Pen, name: str, account: Account, roles: tuple[Role, ...], reason: str | None) -> None:
    """Sign that an account is trusted with `roles`, under its root of trust; write it down in the audit log.

    Raises:
        TrustError: As `sign_change` says.
    """
    place = pen.place()
    trust = AccountTrust(
        **place,
        roles=roles,
        account=account.subject,
        issuer=account.issuer,
        trusted_root=account.trusted_root,
        reason=reason,
    )
    statement = AccountStatement(subject=identity_subject(name, account.key_id), predicate=trust)
    more = {"account": account.subject, "issuer": account.issuer, "trusted_root": account.root_digest}
    _write_down(pen, statement, roles, reason, more)


def _write_down(
    pen: Pen,
    statement: AccountStatement | IdentityStatement,
    roles: tuple[Role, ...],
    reason: str | None,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    signer = statement.predicate.signer.identity
    said = {"statement": pen.sign(statement), "signer": signer, "key_id": statement.key_id}
    detail = said | {"roles": [role.value for role in roles]} | dict(more)
    kind = f"identity.{statement.predicate.verb}"
    event = NewEvent(kind, statement.identity, pen.actor, pen.at, reason=reason, detail=detail)
    audit.append(pen.connection, event)
