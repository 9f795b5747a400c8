"""Signed statements: in-toto Statement v1 with predicates of ours, in the one canonical form of RFC 8785.

The predicate types are URIs below ``https://loractl.dev/attestation/``; they name and need not resolve.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from loractl_registry.file_errors import shown
from loractl_registry.refs import VersionRef, parse_ref
from loractl_registry.strict_json import StrictJsonError, parse_object
from loractl_registry.trust.envelope import sign_envelope
from loractl_registry.trust.errors import PredicateTypeError, StatementError, WrongSignerError, short
from loractl_registry.trust.fields import Hexadecimal, Name, Strict, VersionName, canonical_bytes, is_canonical
from loractl_registry.trust.identity_predicates import AccountTrust, IdentityChange, require_key
from loractl_registry.trust.keyless import Account, AccountSigner
from loractl_registry.trust.keys import Signing
from loractl_registry.trust.predicates import (
    Addition,
    Approval,
    BaseAdmission,
    BreakGlass,
    FileSigning,
    Inventory,
    Promotion,
    Revocation,
    StepDown,
    Testimony,
)

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"


class PredicateType(StrEnum):
    """What kind of predicate a statement has."""

    ADDITION = "https://loractl.dev/attestation/addition/v1"
    FILE_SIGNATURE = "https://loractl.dev/attestation/file-signature/v1"
    EVIDENCE = "https://loractl.dev/attestation/evidence/v1"
    PROMOTION = "https://loractl.dev/attestation/promotion/v1"
    APPROVAL = "https://loractl.dev/attestation/approval/v1"
    BREAK_GLASS = "https://loractl.dev/attestation/break-glass/v1"
    STEP_DOWN = "https://loractl.dev/attestation/step-down/v1"
    REVOCATION = "https://loractl.dev/attestation/revocation/v1"
    BASE = "https://loractl.dev/attestation/base/v1"
    INVENTORY = "https://loractl.dev/attestation/inventory/v1"
    ACCOUNT = "https://loractl.dev/attestation/account/v1"
    IDENTITY = "https://loractl.dev/attestation/identity/v1"

    @property
    def word(self) -> str:
        """What a statement of this kind is called where one word names it, such as break-glass."""
        return self.name.lower().replace("_", "-")


class DigestSet(Strict):
    """in-toto's way to write a digest."""

    sha256: Hexadecimal


class VersionSubject(Strict):
    """An adapter version: its ref and the digest of its content."""

    name: VersionName
    digest: DigestSet


class IdentitySubject(Strict):
    """An identity: its name and the id of its key."""

    name: Name
    digest: DigestSet


class BaseSubject(Strict):
    """A base: its name and the digest of its manifest."""

    name: Name
    digest: DigestSet


class _Statement(Strict):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")


class _VersionStatement(_Statement):
    subject: tuple[VersionSubject]

    @property
    def ref(self) -> VersionRef:
        """The version that it is about."""
        ref = parse_ref(self.subject[0].name)
        return VersionRef(ref.name, ref.number or 0)

    @property
    def content_digest(self) -> str:
        """Digest of the content of that version, ``sha256:hex``."""
        return f"sha256:{self.subject[0].digest.sha256}"


class AdditionStatement(_VersionStatement):
    """A version was added."""

    predicate_type: Literal[PredicateType.ADDITION] = Field(default=PredicateType.ADDITION, alias="predicateType")
    predicate: Addition


class FileSigningStatement(_VersionStatement):
    """The files of a version were signed once more."""

    predicate_type: Literal[PredicateType.FILE_SIGNATURE] = Field(
        default=PredicateType.FILE_SIGNATURE, alias="predicateType"
    )
    predicate: FileSigning


class EvidenceStatement(_VersionStatement):
    """A piece of evidence about a version was kept."""

    predicate_type: Literal[PredicateType.EVIDENCE] = Field(default=PredicateType.EVIDENCE, alias="predicateType")
    predicate: Testimony


class PromotionStatement(_VersionStatement):
    """A version climbed one rung."""

    predicate_type: Literal[PredicateType.PROMOTION] = Field(default=PredicateType.PROMOTION, alias="predicateType")
    predicate: Promotion


class ApprovalStatement(_VersionStatement):
    """Somebody is for a version climbing one rung."""

    predicate_type: Literal[PredicateType.APPROVAL] = Field(default=PredicateType.APPROVAL, alias="predicateType")
    predicate: Approval


class BreakGlassStatement(_VersionStatement):
    """A version went up without what the policy asks for."""

    predicate_type: Literal[PredicateType.BREAK_GLASS] = Field(default=PredicateType.BREAK_GLASS, alias="predicateType")
    predicate: BreakGlass


class StepDownStatement(_VersionStatement):
    """A version was demoted, rejected or retired."""

    predicate_type: Literal[PredicateType.STEP_DOWN] = Field(default=PredicateType.STEP_DOWN, alias="predicateType")
    predicate: StepDown


class RevocationStatement(_VersionStatement):
    """A version was revoked."""

    predicate_type: Literal[PredicateType.REVOCATION] = Field(default=PredicateType.REVOCATION, alias="predicateType")
    predicate: Revocation


class BaseStatement(_Statement):
    """A base was admitted or withdrawn."""

    predicate_type: Literal[PredicateType.BASE] = Field(default=PredicateType.BASE, alias="predicateType")
    subject: tuple[BaseSubject]
    predicate: BaseAdmission

    @property
    def base(self) -> str:
        """Name of the base."""
        return self.subject[0].name

    @property
    def manifest_digest(self) -> str:
        """Digest of its manifest, ``sha256:hex``."""
        return f"sha256:{self.subject[0].digest.sha256}"


class HomeSubject(Strict):
    """The registry of a home, by the id of the home."""

    name: Literal["registry"]
    digest: DigestSet


class InventoryStatement(_Statement):
    """The versions from before additions were signed were listed."""

    predicate_type: Literal[PredicateType.INVENTORY] = Field(default=PredicateType.INVENTORY, alias="predicateType")
    subject: tuple[HomeSubject]
    predicate: Inventory

    @model_validator(mode="after")
    def _is_about_this_home(self) -> Self:
        if self.subject[0].digest.sha256 != self.predicate.home:
            raise ValueError("the subject's digest must be the id of the home")
        return self


class AboutIdentity(_Statement):
    """Something changed about who may sign."""

    subject: tuple[IdentitySubject]

    @property
    def identity(self) -> str:
        """The identity that it is about."""
        return self.subject[0].name

    @property
    def key_id(self) -> str:
        """The key, or the account, that it is about."""
        return self.subject[0].digest.sha256


class AccountStatement(AboutIdentity):
    """An account that signs without a key was trusted."""

    predicate_type: Literal[PredicateType.ACCOUNT] = Field(default=PredicateType.ACCOUNT, alias="predicateType")
    predicate: AccountTrust

    @property
    def account(self) -> Account:
        """The account that it is about."""
        return Account(self.predicate.account, self.predicate.issuer, self.predicate.trusted_root)

    @model_validator(mode="after")
    def _is_about_that_account(self) -> Self:
        if self.account.key_id != self.key_id:
            raise ValueError("account and issuer must be those of the subject's digest")
        return self


class IdentityStatement(AboutIdentity):
    """The key of an identity was created, trusted or revoked."""

    predicate_type: Literal[PredicateType.IDENTITY] = Field(default=PredicateType.IDENTITY, alias="predicateType")
    predicate: IdentityChange

    @model_validator(mode="after")
    def _is_about_that_key(self) -> Self:
        if self.predicate.public_key is not None:
            require_key(self.predicate.public_key, self.key_id)
        signer = self.predicate.signer
        if self.predicate.nonce is not None and (signer.identity, signer.key_id) != (self.identity, self.key_id):
            raise ValueError("the first identity must be signed by itself")
        return self


Statement = (
    AdditionStatement
    | FileSigningStatement
    | EvidenceStatement
    | PromotionStatement
    | ApprovalStatement
    | BreakGlassStatement
    | StepDownStatement
    | RevocationStatement
    | BaseStatement
    | InventoryStatement
    | AccountStatement
    | IdentityStatement
)

_ANY: TypeAdapter[Statement] = TypeAdapter(Annotated[Statement, Field(discriminator="predicate_type")])


def subject_of(ref: VersionRef, digest: str) -> tuple[VersionSubject]:
    """Return the subject of a statement about `ref`, whose content has `digest` as ``sha256:hex``."""
    return (VersionSubject(name=str(ref), digest=DigestSet(sha256=digest.removeprefix("sha256:"))),)


def base_subject(name: str, digest: str) -> tuple[BaseSubject]:
    """Return the subject of a statement about the base `name`, whose manifest has `digest` as ``sha256:hex``."""
    return (BaseSubject(name=name, digest=DigestSet(sha256=digest.removeprefix("sha256:"))),)


def home_subject(home: str) -> tuple[HomeSubject]:
    """Return the subject of a statement about the registry of `home`."""
    return (HomeSubject(name="registry", digest=DigestSet(sha256=home)),)


def identity_subject(name: str, key_id: str) -> tuple[IdentitySubject]:
    """Return the subject of a statement about the key `key_id` of the identity `name`."""
    return (IdentitySubject(name=name, digest=DigestSet(sha256=key_id)),)


def describe(statement: Statement) -> str:
    """Name `statement` as messages do: what, of whom, and where in the chain."""
    predicate = statement.predicate
    if isinstance(statement, AccountStatement | IdentityStatement):
        what = f"{statement.predicate.verb} of identity {statement.identity} ({short(statement.key_id)})"
    else:
        what = f"{statement.predicate.act} of {statement.subject[0].name}"
    return f"{what}, sequence {predicate.sequence}"


def digest_of(payload: bytes) -> str:
    """Return the digest that links the next statement to this one: over what is signed, not over signatures."""
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


def sign_statement(statement: Statement, signer: Signing | AccountSigner) -> bytes:
    """Return the signed envelope of `statement`; by an account, the bundle that holds it.

    Raises:
        WrongSignerError: It names another key or account than that of `signer`.
        RegistryError: As `AccountSigner.bundle` says.
    """
    named = statement.predicate.signer
    if named.key_id != signer_id(signer):
        raise WrongSignerError(describe(statement), named.identity, named.key_id)
    payload = canonical_bytes(statement)
    if isinstance(signer, AccountSigner):
        return signer.bundle(payload)
    return sign_envelope(payload, PAYLOAD_TYPE, signer)


def signer_id(signer: Signing | AccountSigner) -> str:
    """Return the id that statements name `signer` by."""
    return signer.account.key_id if isinstance(signer, AccountSigner) else signer.public.key_id


def parse_statement(payload: bytes) -> Statement:
    """Read what an envelope holds; whether to believe it is for `verify_statement` to say.

    Raises:
        PredicateTypeError: Its predicate type is not known here.
        StatementError: It is malformed, or written in another way than the canonical one.
    """
    try:
        statement = _ANY.validate_json(payload)
    except ValidationError as error:
        _require_known(payload)
        raise _named(error) from error
    # One statement, one text: otherwise two readers could disagree on what a digest stands for. That text has no key
    # twice and lacks none, so nothing else needs to be asked of a text that is it.
    if not is_canonical(statement, payload):
        _require_known(payload)
        raise StatementError("it is not in canonical form")
    return statement


def _require_known(payload: bytes) -> None:
    """Return if `payload` is JSON, and claims to be a statement with a predicate of ours; else say what it is."""
    try:
        held = parse_object(payload)
    except StrictJsonError as error:
        raise StatementError(str(error)) from error
    if held.get("_type") != STATEMENT_TYPE:
        raise StatementError(f"its type is {shown(held.get('_type'))}, not {STATEMENT_TYPE}")
    found = held.get("predicateType")
    if not isinstance(found, str) or found not in set(PredicateType):
        raise PredicateTypeError(found)


def _named(error: ValidationError) -> StatementError:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "it"
    return StatementError(f"{place}: {first['msg'].removeprefix('Value error, ')[:300]}")
