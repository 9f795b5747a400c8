"""What statements say about who may sign."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from loractl_registry.trust.errors import TrustError
from loractl_registry.trust.fields import Reason
from loractl_registry.trust.keyless import ISSUER_PATTERN, MAX_ROOT_BYTES, SUBJECT_PATTERN
from loractl_registry.trust.keys import parse_public_key
from loractl_registry.trust.predicates import Predicate
from loractl_registry.trust.roles import Act, Role


class IdentityVerb(StrEnum):
    """How identities change: the first is created, by itself; the others are trusted and revoked."""

    CREATE = "create"
    TRUST = "trust"
    REVOKE = "revoke"


Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Roles = Annotated[tuple[Role, ...], AfterValidator(lambda roles: tuple(sorted(set(roles))))]


def home_id(root_key_id: str, nonce: str) -> str:
    """Return the id of the home whose first identity has this key.

    It binds the whole chain to that key: who knows a home's id needs nothing else to tell its chain from another.
    """
    return hashlib.sha256(f"loractl home {root_key_id} {nonce}".encode()).hexdigest()


class IdentityChange(Predicate):
    """An identity's key was created, trusted with roles, or revoked.

    Attributes:
        roles: What the key may do from now on; empty when it is revoked.
        public_key: PEM of the key; None when it is revoked.
        nonce: 16 random bytes in hexadecimal that tell this home from others of the same key; only when created.
    """

    verb: IdentityVerb
    roles: Roles
    public_key: Annotated[str, StringConstraints(max_length=1000)] | None
    nonce: Nonce | None = None
    reason: Reason | None = None

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.CHANGE_IDENTITIES

    @model_validator(mode="after")
    def _verb_has_its_fields(self) -> Self:
        is_revoked, is_created = self.verb is IdentityVerb.REVOKE, self.verb is IdentityVerb.CREATE
        if (self.public_key is None) != is_revoked or bool(self.roles) == is_revoked:
            raise ValueError("roles and public_key must be there unless the verb is revoke")
        if (self.nonce is None) == is_created or (self.sequence == 1) != is_created:
            raise ValueError("nonce must be there in the first statement, which creates, and in no other")
        if self.nonce is not None and self.home != home_id(self.signer.key_id, self.nonce):
            raise ValueError("home must follow from the signer's key and the nonce")
        return self


class AccountTrust(Predicate):
    """An account that signs without a key is trusted with roles; revoked it is like any identity.

    Attributes:
        account: What its certificates are for: an address, or the URI of a workflow.
        issuer: URL of the OpenID provider that vouches for it.
        trusted_root: Sigstore's ``trusted_root.json``: whose word counts on who signed, and when.
    """

    roles: Annotated[Roles, Field(min_length=1)]
    account: Annotated[str, StringConstraints(pattern=SUBJECT_PATTERN)]
    issuer: Annotated[str, StringConstraints(pattern=ISSUER_PATTERN)]
    trusted_root: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ROOT_BYTES)]
    reason: Reason | None = None

    @property
    def verb(self) -> IdentityVerb:
        """How identities change."""
        return IdentityVerb.TRUST

    @property
    def act(self) -> Act:
        """What the signer needs a role for."""
        return Act.CHANGE_IDENTITIES


def require_key(pem: str, key_id: str) -> None:
    """Return if `pem` is the one text of the key `key_id`.

    Raises:
        ValueError: It is not.
    """
    try:
        key = parse_public_key(pem.encode(), source="public_key")
    except TrustError as error:
        raise ValueError(str(error)) from None
    if key.pem != pem or key.key_id != key_id:
        raise ValueError("public_key must be the key of the subject's digest, in its one form")
