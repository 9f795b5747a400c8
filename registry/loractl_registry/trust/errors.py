"""What the trust component refuses about keys, envelopes, statements, chains and checkpoints."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from loractl_registry.errors import DeniedError, NotFoundError, RegistryError, UsageError
from loractl_registry.file_errors import shown

_SHOWN_DIGITS = 16


def short(key_id: str) -> str:
    """Return the beginning of a key id or digest, enough to tell it from others; hostile text comes back escaped."""
    hexadecimal = key_id.removeprefix("sha256:")
    if not (hexadecimal.isascii() and hexadecimal.isalnum()):
        return shown(key_id[:_SHOWN_DIGITS])
    return hexadecimal[:_SHOWN_DIGITS]


class TrustError(DeniedError):
    """Root of what makes a key, a signature, a statement or a chain untrusted.

    Attributes:
        place: Place of the statement in the chain that was verified, counted from 1; None outside a chain.
    """

    code = "trust.denied"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.place: int | None = None

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.place is None else f"statement {self.place} of the chain: {message}"


# Keys


class KeyNotFoundError(NotFoundError):
    """There is no key file at the path."""

    code = "trust.key_not_found"

    def __init__(self, path: Path) -> None:
        super().__init__(f"no key at {path}", hint="run: loractl identity create NAME, or name another file")
        self.path = path


class KeyPermissionsError(TrustError):
    """Others than the owner may read or write the private key."""

    code = "trust.key_permissions"

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(
            f"refused key {path}: its mode is {mode:04o}, so others may use it",
            hint=f"run: chmod 600 {shlex.quote(str(path))}",
        )
        self.path, self.mode = path, mode


class KeyDamagedError(TrustError):
    """The file is no whole key in PEM."""

    code = "trust.key_damaged"

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(
            f"refused key {source}: {problem}", hint="restore it from a copy, or have an operator trust a new key"
        )
        self.source = source


class KeyTypeError(TrustError):
    """It is a key, and not a private or public one on P-256 as was needed."""

    code = "trust.key_type"

    def __init__(self, source: str, found: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"refused key {source}: it is {found}, and identities are EC keys on P-256",
            hint=hint or "run: loractl identity create NAME",
        )
        self.source = source


class KeyCurveError(KeyTypeError):
    """It is an EC key on another curve."""

    code = "trust.key_curve"

    def __init__(self, source: str, curve: str) -> None:
        super().__init__(source, f"on the curve {shown(curve)}")
        self.curve = curve


class PassphraseNeededError(TrustError):
    """The key is encrypted and no passphrase was given."""

    code = "trust.passphrase_needed"

    def __init__(self, source: str, variable: str) -> None:
        super().__init__(f"key {source} is encrypted and no passphrase was given", hint=f"set {variable}")
        self.source = source


class PassphraseWrongError(TrustError):
    """The passphrase does not open the key. Encryption of a key tells no wrong passphrase from a damaged body."""

    code = "trust.passphrase_wrong"

    def __init__(self, source: str, variable: str) -> None:
        super().__init__(
            f"cannot unlock key {source}: the passphrase is wrong, or the encrypted part is damaged",
            hint=f"check {variable}",
        )
        self.source = source


class PassphraseError(UsageError):
    """The passphrase for a new key is empty or too long."""

    code = "trust.passphrase"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the passphrase must have 1 to {limit} bytes", hint="leave it unset for a key without one")


# Envelopes


class EnvelopeError(TrustError):
    """The envelope is malformed, too large or of another payload type."""

    code = "trust.envelope"

    def __init__(self, problem: str) -> None:
        super().__init__(f"refused envelope: {problem}", hint="fetch it again from where it was written")


class UnknownSignerError(TrustError):
    """No signature is by a key that is trusted."""

    code = "trust.unknown_signer"

    def __init__(self, key_ids: Iterable[str]) -> None:
        self.key_ids = tuple(key_ids)
        named = ", ".join(short(key_id) for key_id in self.key_ids[:3]) or "nobody"
        super().__init__(
            f"refused envelope: it is signed by {named}, which no identity here has",
            hint="if you know whose key it is, an operator may trust it: loractl identity trust NAME PUBLIC.pub",
        )


class SignatureInvalidError(TrustError):
    """A signature names a known key and is not by it, or not over these bytes."""

    code = "trust.signature_invalid"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"refused envelope: its signature is not by key {short(key_id)} over these bytes",
            hint="it was changed after signing; fetch it again from where it was written",
        )
        self.key_id = key_id


class WrongSignerError(TrustError):
    """A statement names another signer than the key that signs or signed it."""

    code = "trust.wrong_signer"

    def __init__(self, what: str, identity: str, key_id: str) -> None:
        super().__init__(
            f"refused {what}: it names key {short(key_id)} of {identity} as its signer, and that key has not signed it",
            hint="sign it with the key that it names",
        )


# Statements


class StatementError(TrustError):
    """The signed bytes are no statement of ours, or not in their one canonical form."""

    code = "trust.statement"

    def __init__(self, problem: str) -> None:
        super().__init__(f"refused statement: {problem}", hint="it was not written by loractl, or by a newer one")


class PredicateTypeError(StatementError):
    """The predicate type is not known here."""

    code = "trust.predicate_type"

    def __init__(self, found: object) -> None:
        super().__init__(f"its predicate type {shown(found)} is not known")


class ForeignHomeError(TrustError):
    """The statement, chain or checkpoint belongs to another home."""

    code = "trust.foreign_home"

    def __init__(self, what: str, found: str, expected: str) -> None:
        super().__init__(
            f"refused {what}: it belongs to home {short(found)} and this is {short(expected)}",
            hint="use it in the home that it was made for",
        )


class KeyOwnerError(TrustError):
    """The key is not one of the identity that the statement names."""

    code = "trust.key_owner"

    def __init__(self, what: str, identity: str, key_id: str) -> None:
        super().__init__(
            f"refused {what}: key {short(key_id)} is not one of {identity}",
            hint="see whose it is: loractl identity show",
        )


class KeyNotYetTrustedError(TrustError):
    """The key became trusted only after the sequence that the statement claims."""

    code = "trust.key_not_yet_trusted"

    def __init__(self, what: str, identity: str, key_id: str, sequence: int, since: int) -> None:
        super().__init__(
            f"refused {what}: key {short(key_id)} of {identity} is trusted since sequence {since},"
            f" and this claims {sequence}",
            hint="sign it anew at the current sequence",
        )


class KeyRevokedError(TrustError):
    """The key was revoked at or before the sequence that the statement claims."""

    code = "trust.key_revoked"

    def __init__(self, what: str, identity: str, key_id: str, sequence: int, until: int) -> None:
        super().__init__(
            f"refused {what}: key {short(key_id)} of {identity} was revoked at sequence {until},"
            f" and this claims {sequence}",
            hint="have someone whose key is trusted sign it anew",
        )
        self.until = until


class RoleError(TrustError):
    """The signer's role does not allow what the statement does."""

    code = "trust.role"

    def __init__(self, what: str, identity: str, roles: Iterable[str], needed: Iterable[str]) -> None:
        super().__init__(
            f"refused {what}: it takes {' or '.join(sorted(needed))}, and {identity} is {' and '.join(sorted(roles))}",
            hint="have someone with that role sign it; see: loractl identity show",
        )


class FromTheFutureError(TrustError):
    """The statement or checkpoint is dated later than clocks may differ."""

    code = "trust.from_the_future"

    def __init__(self, what: str, at: datetime, now: datetime) -> None:
        super().__init__(
            f"refused {what}: it is dated {at:%Y-%m-%dT%H:%M:%SZ} and it is {now:%Y-%m-%dT%H:%M:%SZ}",
            hint="set the clock of this machine, or of the one that signed it",
        )


class ExpiredError(TrustError):
    """What the statement allowed has ended."""

    code = "trust.expired"

    def __init__(self, what: str, expires: datetime) -> None:
        super().__init__(
            f"refused {what}: it expired at {expires:%Y-%m-%dT%H:%M:%SZ}",
            hint="have it approved again, with a new expiry",
        )
        self.expires = expires


# Identities and chains


class IdentityError(TrustError):
    """A change of identities contradicts what is there."""

    code = "trust.identity"

    def __init__(self, problem: str, *, hint: str) -> None:
        super().__init__(f"refused change of identities: {problem}", hint=hint)


class LastOperatorError(IdentityError):
    """Without an operator nobody could ever change identities again."""

    code = "trust.last_operator"

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"{identity} holds the last key of an operator", hint="trust another operator first, who can then do it"
        )


class ChainError(TrustError):
    """Statements are missing, reordered, repeated or replaced."""

    code = "trust.chain"

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem, hint="restore the newest backup, then compare with a checkpoint: loractl audit verify"
        )


# Checkpoints


class MissingCheckpointError(NotFoundError):
    """A witness holds no checkpoint."""

    code = "trust.missing_checkpoint"

    def __init__(self, witness: str) -> None:
        super().__init__(
            f"no checkpoint in {witness}",
            hint="restore it; if this witness is new, write the first one: loractl audit checkpoint",
        )
        self.witness = witness


class RollbackError(TrustError):
    """The database is older than a checkpoint of it."""

    code = "trust.rollback"

    def __init__(self, sequence: int, witnessed: int) -> None:
        super().__init__(
            f"the database ends at sequence {sequence}, and a signed checkpoint has seen {witnessed}",
            hint="somebody restored an older copy; restore the newest one",
        )
        self.sequence, self.witnessed = sequence, witnessed


class ForkError(TrustError):
    """The database tells another story than the checkpoint, up to the same sequence."""

    code = "trust.fork"

    def __init__(self, sequence: int, held: str, witnessed: str) -> None:
        super().__init__(
            f"at sequence {sequence} the database has {short(held)}, and a signed checkpoint saw {short(witnessed)}",
            hint="two histories exist; find out which is true before serving",
        )
        self.sequence = sequence


class GitWitnessError(RegistryError):
    """Git did not take or give the checkpoint."""

    code = "trust.git_witness"

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"git cannot witness {path}: {problem}", hint="make it a file inside a git work tree of yours")
        self.path = path
