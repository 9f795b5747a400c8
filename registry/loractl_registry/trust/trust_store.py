"""Which keys are trusted, with which roles, at which place of the chain: a fold over statements about identities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from loractl_registry.trust.errors import (
    IdentityError,
    KeyNotYetTrustedError,
    KeyOwnerError,
    KeyRevokedError,
    LastOperatorError,
    short,
)
from loractl_registry.trust.identity_predicates import IdentityVerb
from loractl_registry.trust.keyless import Account
from loractl_registry.trust.keys import PublicKey
from loractl_registry.trust.roles import Role
from loractl_registry.trust.statements import AccountStatement, IdentityStatement


@dataclass(frozen=True, slots=True)
class Grant:
    """Roles that one key, or one account, of one identity has in a stretch of the chain.

    Attributes:
        since: First sequence that it may sign.
        until: Sequence of the statement that ended it, which it may not sign nor anything after; None while it lasts.
        is_revoked: Whether that statement revoked the key, or else gave it other roles.
    """

    identity: str
    key: PublicKey | Account
    roles: frozenset[Role]
    since: int
    until: int | None = None
    is_revoked: bool = False

    def covers(self, sequence: int) -> bool:
        """Tell whether the key may sign a statement with this sequence."""
        return self.since <= sequence and (self.until is None or sequence < self.until)

    def has_seen(self, sequence: int) -> bool:
        """Tell whether the key may sign a checkpoint of this sequence: from the statement on that made it trusted."""
        return self.since <= sequence + 1 and (self.until is None or sequence < self.until)


@dataclass(frozen=True, slots=True)
class TrustStore:
    """Every key that was ever trusted in one home, as of one place of its chain.

    Attributes:
        grants: In the order in which they were given; a key has one more for every change of its roles.
    """

    home: str
    grants: tuple[Grant, ...]

    @classmethod
    def begin(cls, root: IdentityStatement) -> TrustStore:
        """Return what follows from the first statement of a home, whose signature was verified with its own key."""
        return cls(root.predicate.home, (_grant_of(root, since=root.predicate.sequence),))

    @property
    def root(self) -> PublicKey | Account:
        """The key of the first identity."""
        return self.grants[0].key

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """Every key that was ever trusted, each once; revoked ones too, so that errors can say so."""
        held = (grant.key for grant in self.grants if isinstance(grant.key, PublicKey))
        return tuple({key.key_id: key for key in held}.values())

    @property
    def accounts(self) -> tuple[Account, ...]:
        """Every account that was ever trusted, once for each root of trust that was pinned for it."""
        return tuple(dict.fromkeys(grant.key for grant in self.grants if isinstance(grant.key, Account)))

    @property
    def identities(self) -> Mapping[str, tuple[Grant, ...]]:
        """The grants of each identity, in order."""
        held: dict[str, list[Grant]] = {}
        for grant in self.grants:
            held.setdefault(grant.identity, []).append(grant)
        return {name: tuple(grants) for name, grants in held.items()}

    def active(self, key_id: str) -> Grant | None:
        """Return what the key may do now, None if nothing."""
        return next((grant for grant in self.grants if grant.key.key_id == key_id and grant.until is None), None)

    def witness(self, what: str, identity: str, key_id: str, sequence: int) -> Grant:
        """Return what lets the key of `identity` sign a checkpoint of `sequence`; raises as `grant_at` does."""
        for grant in self.grants:
            if grant.key.key_id == key_id and grant.identity == identity and grant.has_seen(sequence):
                return grant
        return self.grant_at(what, identity, key_id, sequence)

    def grant_at(self, what: str, identity: str, key_id: str, sequence: int) -> Grant:
        """Return what the key of `identity` may do at `sequence`; `what` names the statement in messages.

        Raises:
            KeyOwnerError: The key is not one of that identity.
            KeyNotYetTrustedError, KeyRevokedError: It may do nothing there.
        """
        grants = [grant for grant in self.grants if grant.key.key_id == key_id and grant.identity == identity]
        if not grants:
            raise KeyOwnerError(what, identity, key_id)
        for grant in grants:
            if grant.covers(sequence):
                return grant
        if sequence < grants[0].since:
            raise KeyNotYetTrustedError(what, identity, key_id, sequence, grants[0].since)
        ended = [grant.until for grant in grants if grant.until is not None and grant.until <= sequence]
        raise KeyRevokedError(what, identity, key_id, sequence, max(ended))

    def after(self, statement: AccountStatement | IdentityStatement) -> TrustStore:
        """Return the store after a change that was verified against this one, which says that an operator signed it.

        Nobody changes the key that they sign with, so there is always an operator: to change one's own key, trust a new
        one and let that one revoke the old.

        Raises:
            IdentityError: It contradicts what is there; LastOperatorError if it would leave no operator.
        """
        change = statement.predicate
        held = self.active(statement.key_id)
        if change.verb is IdentityVerb.CREATE:
            raise IdentityError("there is a first identity already", hint="use trust for every other")
        if change.verb is IdentityVerb.REVOKE:
            return self._revoke(statement, held)
        self._require_free(statement, held)
        if held is None:
            return replace(self, grants=(*self.grants, _grant_of(statement, since=change.sequence + 1)))
        self._require_not_own(statement)
        successor = _grant_of(statement, since=change.sequence + 1)
        if (held.roles, held.key) == (successor.roles, successor.key):
            raise IdentityError(f"{held.identity} has these roles already", hint="there is nothing to do")
        return self._ended(held, change.sequence, successor)

    def _revoke(self, statement: AccountStatement | IdentityStatement, held: Grant | None) -> TrustStore:
        if held is None or held.identity != statement.identity:
            raise IdentityError(
                f"{statement.identity} has no trusted key {short(statement.key_id)}",
                hint="see which there are: loractl identity show",
            )
        self._require_not_own(statement)
        return self._ended(held, statement.predicate.sequence, None)

    def _require_free(self, statement: AccountStatement | IdentityStatement, held: Grant | None) -> None:
        """A key belongs to one identity, and once revoked, to none."""
        known = [grant for grant in self.grants if grant.key.key_id == statement.key_id]
        if known and held is None:
            raise IdentityError(
                f"key {short(statement.key_id)} was revoked", hint="create a new key; revoked is for good"
            )
        if held is not None and held.identity != statement.identity:
            raise IdentityError(
                f"key {short(statement.key_id)} belongs to {held.identity}",
                hint="let each identity have a key of its own",
            )

    def _require_not_own(self, statement: AccountStatement | IdentityStatement) -> None:
        if statement.key_id != statement.predicate.signer.key_id:
            return
        operators = [grant for grant in self.grants if grant.until is None and Role.OPERATOR in grant.roles]
        if len(operators) == 1:
            raise LastOperatorError(statement.identity)
        raise IdentityError(
            f"{statement.identity} signs with the key that would change",
            hint="let another operator do it, or trust a new key of yours and sign with that",
        )

    def _ended(self, held: Grant, sequence: int, successor: Grant | None) -> TrustStore:
        ended = replace(held, until=sequence, is_revoked=successor is None)
        grants = tuple(ended if grant is held else grant for grant in self.grants)
        return replace(self, grants=grants if successor is None else (*grants, successor))


def _grant_of(statement: AccountStatement | IdentityStatement, *, since: int) -> Grant:
    key: PublicKey | Account
    if isinstance(statement, AccountStatement):
        key = statement.account
    else:
        key = PublicKey(statement.key_id, statement.predicate.public_key or "")
    return Grant(statement.identity, key, frozenset(statement.predicate.roles), since)
