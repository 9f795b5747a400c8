"""Who asks: an identity as the chain knows it, for questions that sign nothing."""

from __future__ import annotations

from dataclasses import dataclass

from loractl_registry._context import Context
from loractl_registry.ledger.errors import AmbiguousIdentityError, NoSuchIdentityError
from loractl_registry.ledger.identities import ALL_ROLES, KEYS, account_chosen, identity_name, private_keys
from loractl_registry.ledger.judging import is_solo
from loractl_registry.policies import Policy
from loractl_registry.trust import Chain, Role, load_public_key, public_path_of


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks, and what their trusted keys may do."""

    name: str
    roles: frozenset[Role]


def viewer_of(context: Context, chain: Chain | None, policy: Policy, *, actor: str, identity: str | None) -> Viewer:
    """Return who asks: the identity that was named, else whoever would sign here. No private key is opened.

    Raises:
        NoSuchIdentityError: The identity that was named has no key that is trusted, or none here.
        AmbiguousIdentityError: Several could sign, and nobody said which.
    """
    if identity is not None:
        return _trusted(chain, identity)
    if (account := account_chosen(context, chain)) is not None:
        return Viewer(account.identity, account.roles)
    held = private_keys(context)
    chosen = context.signing.identity
    if chosen is not None and chosen not in held:
        raise NoSuchIdentityError(chosen, list(held))
    if chosen is None and len(held) > 1:
        raise AmbiguousIdentityError(context.home / KEYS, list(held))
    if chain is None:
        name = chosen or next(iter(held), None) or identity_name(actor)
        return Viewer(name, ALL_ROLES if is_solo(policy) else frozenset())
    path = held.get(chosen) if chosen is not None else next(iter(held.values()), None)
    if path is None:
        return Viewer(identity_name(actor), frozenset())
    grant = chain.trust.active(load_public_key(public_path_of(path)).key_id)
    return (
        Viewer(path.name.removesuffix(path.suffix), frozenset())
        if grant is None
        else Viewer(grant.identity, grant.roles)
    )


def _trusted(chain: Chain | None, identity: str) -> Viewer:
    grants = [grant for grant in (() if chain is None else chain.trust.grants) if grant.until is None]
    roles = [grant.roles for grant in grants if grant.identity == identity]
    if not roles:
        raise NoSuchIdentityError(identity, sorted({grant.identity for grant in grants}))
    return Viewer(identity, frozenset[Role]().union(*roles))
