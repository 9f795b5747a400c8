"""Private keys of a home, and which of them acts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry.errors import InvalidNameError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.ledger.errors import (
    AmbiguousIdentityError,
    NoIdentityError,
    NoSuchIdentityError,
    UntrustedIdentityError,
)
from loractl_registry.ledger.judging import is_solo
from loractl_registry.policies import Policy
from loractl_registry.refs import parse_name
from loractl_registry.trust import (
    Account,
    AccountSigner,
    Chain,
    Grant,
    IdentityKey,
    Passphrase,
    Role,
    create_key,
    load_key,
    public_path_of,
    save_key,
)

KEYS = "keys"
_SUFFIX = ".pem"
_FALLBACK = "owner"
ALL_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Acting:
    """Who acts.

    Attributes:
        key: What signs: a key, or an account without one; None where the identity begins with what it is about to do.
    """

    name: str
    roles: frozenset[Role]
    key: IdentityKey | AccountSigner | None


def key_path(context: Context, name: str) -> Path:
    """Return where the private key of `name` lies."""
    return context.home / KEYS / f"{name}{_SUFFIX}"


def private_keys(context: Context) -> Mapping[str, Path]:
    """Return the private keys of the home by name, sorted."""
    folder = context.home / KEYS
    with os_errors_named(folder):
        found = sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []
    return {path.name.removesuffix(_SUFFIX): path for path in found}


def acting_identity(context: Context, chain: Chain | None, policy: Policy, *, actor: str) -> Acting:
    """Return who signs: the identity that was chosen, else the owner of the only private key.

    An identity that has no key here may be an account without one: it signs if it was chosen by name. In a home where
    nothing was signed yet and the policy is `solo`, that is whoever acts, who need have no key.

    Raises:
        NoIdentityError, NoSuchIdentityError, AmbiguousIdentityError: No key can be chosen.
        UntrustedIdentityError: Its key is not trusted.
        TrustError: The key cannot be used.
    """
    if (grant := account_chosen(context, chain)) is not None and isinstance(grant.key, Account):
        return Acting(grant.identity, grant.roles, AccountSigner(grant.key, context.signing.token))
    path = _chosen(context)
    if path is None:
        if chain is None and is_solo(policy):
            return Acting(identity_name(actor), ALL_ROLES, None)
        raise NoIdentityError(context.home / KEYS, has_chain=chain is not None)
    name = path.name.removesuffix(_SUFFIX)
    key = load_key(path, passphrase=context.signing.passphrase)
    if chain is None:
        if not is_solo(policy):
            raise NoIdentityError(context.home / KEYS, has_chain=False)
        return Acting(name, ALL_ROLES, key)
    grant = chain.trust.active(key.public.key_id)
    if grant is None:
        was_known = any(one.key.key_id == key.public.key_id for one in chain.trust.grants)
        raise UntrustedIdentityError(name, path, is_revoked=was_known)
    return Acting(grant.identity, grant.roles, key)


def account_chosen(context: Context, chain: Chain | None) -> Grant | None:
    """Return what the identity that was chosen may sign as an account; None if it has a key here, or is no account."""
    chosen = context.signing.identity
    if chain is None or chosen is None or chosen in private_keys(context):
        return None
    grants = (grant for grant in chain.trust.grants if grant.identity == chosen and grant.until is None)
    return next((grant for grant in grants if isinstance(grant.key, Account)), None)


def identity_name(actor: str) -> str:
    """Return the name of the identity that belongs to an actor: what a name may hold, and nothing else."""
    name = re.sub(r"[^a-z0-9._-]+", "-", actor.casefold())[:63].strip("-._")
    try:
        return parse_name(name)
    except InvalidNameError:
        return _FALLBACK


def new_key(context: Context, name: str, *, passphrase: Passphrase | None) -> IdentityKey:
    """Create the private key of `name`, mode 0600, with the public one beside it; return the one that is there if any.

    Raises:
        RegistryError: The operating system refused.
    """
    path = key_path(context, name)
    with os_errors_named(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            return load_key(path, passphrase=passphrase)
        # A process that was killed between the two files left a public part that belongs to nothing.
        public_path_of(path).unlink(missing_ok=True)
    key = create_key()
    save_key(key, path, passphrase=passphrase)
    return key


def _chosen(context: Context) -> Path | None:
    held = private_keys(context)
    if (chosen := context.signing.identity) is not None:
        if chosen not in held:
            raise NoSuchIdentityError(chosen, list(held))
        return held[chosen]
    if len(held) > 1:
        raise AmbiguousIdentityError(context.home / KEYS, list(held))
    return next(iter(held.values()), None)
