"""Accounts that sign without a key: sigstore's short-lived certificates, under a root of trust that a home has pinned.

What signs is an account that an OpenID provider vouches for, and what is signed stands in a public log for ever.
Verifying needs no network: a bundle carries its certificate and the proof that it was logged, and the pinned root says
whose word on both counts.
`_sigstore` does the work; its library takes 0.4 s to import, so it is loaded where it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loractl_registry.home_errors import os_errors_named
from loractl_registry.strict_json import StrictJsonError, as_object, parse_object
from loractl_registry.trust._small_files import read_small
from loractl_registry.trust.errors import EnvelopeError
from loractl_registry.trust.keyless_errors import InvalidAccountError, NoTokenError, TrustedRootError

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE_BYTES = 256 * 2**10
MAX_ROOT_BYTES = 64 * 2**10
SUBJECT_PATTERN = r"^[!-~]{1,500}$"
ISSUER_PATTERN = r"^https://[!-~]{1,500}$"
TOKEN_VARIABLE = "SIGSTORE_IDENTITY_TOKEN"  # noqa: S105  # the name of a variable; sigstore-python reads it too


@dataclass(frozen=True, slots=True)
class Account:
    """An account that may sign, and whose word on that counts.

    Attributes:
        subject: What the certificate is for: an address, or the URI of a workflow. Compared as a whole.
        issuer: URL of the OpenID provider that vouches for it.
        trusted_root: Sigstore's ``trusted_root.json``, as it was pinned.
    """

    subject: str
    issuer: str
    trusted_root: str = field(repr=False)

    @property
    def key_id(self) -> str:
        """SHA-256 that stands for the account where the id of a key would, whatever root is pinned."""
        return account_id(self.subject, self.issuer)

    @property
    def root_digest(self) -> str:
        """``sha256:hex`` of the pinned root."""
        return f"sha256:{hashlib.sha256(self.trusted_root.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class AccountSigner:
    """Signs as an account, through sigstore's services; `token` is asked once for every signature and never kept."""

    account: Account
    token: Callable[[], str] | None = field(repr=False)

    def bundle(self, statement: bytes) -> bytes:
        """Return the bundle of `statement`, an in-toto statement, in ASCII.

        Raises:
            NoTokenError: There is no token.
            KeylessUnavailableError: The services cannot be reached, or refuse the token.
            SigstoreMissingError: sigstore is not installed.
        """
        if self.token is None:
            raise NoTokenError(self.account.subject, TOKEN_VARIABLE)
        from loractl_registry.trust import _sigstore  # 0.4 s to import

        # The note of the log holds a dash that is not ASCII; JSON can say it in ASCII.
        return json.dumps(json.loads(_sigstore.sign(statement, self.token())), separators=(",", ":")).encode("ascii")


def parse_account(subject: str, issuer: str, trusted_root: str) -> Account:
    """Return the account that may be trusted.

    Raises:
        InvalidAccountError: `subject` or `issuer` is nothing that a certificate holds.
        TrustedRootError: `trusted_root` is none.
    """
    for what, text, pattern in (("account", subject, SUBJECT_PATTERN), ("issuer", issuer, ISSUER_PATTERN)):
        if not re.fullmatch(pattern, text):
            raise InvalidAccountError(what, text)
    return Account(subject, issuer, _require_root(trusted_root))


def account_id(subject: str, issuer: str) -> str:
    """Return the id of an account; a list in JSON, so that no two accounts have the same text."""
    text = json.dumps(["loractl account", issuer, subject])
    return hashlib.sha256(text.encode()).hexdigest()


def is_bundle(data: bytes) -> bool:
    """Whether `data` says that it is a Sigstore bundle, and no bare envelope."""
    # Every envelope of a chain is asked, and few are bundles; one that spells the key otherwise is no envelope either.
    if b'"mediaType"' not in data:
        return False
    try:
        return parse_object(data).get("mediaType") == BUNDLE_TYPE
    except StrictJsonError:
        return False


def bundled_envelope(data: bytes) -> dict[str, object]:
    """Return the DSSE envelope in a bundle, of which nothing is verified.

    Raises:
        EnvelopeError: The bundle is malformed or too large.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise EnvelopeError(f"it is larger than {MAX_BUNDLE_BYTES} bytes")
    try:
        envelope = as_object(parse_object(data).get("dsseEnvelope"))
    except StrictJsonError as error:
        raise EnvelopeError(str(error)) from error
    if envelope is None:
        raise EnvelopeError("it is a bundle without a DSSE envelope")
    return envelope


def verify_bundle(data: bytes, account: Account) -> tuple[str, bytes]:
    """Return type and bytes of what `account` has signed.

    Certificate, its place in the certificate log, the time of signing, the entry in the transparency log and the
    signature are verified by sigstore, under the root that is pinned.

    Raises:
        KeylessSignatureError: It does not hold, or is by somebody else.
        SigstoreMissingError: sigstore is not installed.
    """
    from loractl_registry.trust import _sigstore  # 0.4 s to import

    return _sigstore.verify(data, account.subject, account.issuer, account.trusted_root)


def claimed_signer(data: bytes) -> tuple[frozenset[str], str | None]:
    """Return the accounts that the certificate in a bundle names, and their issuer: to learn whom to ask for.

    Raises:
        EnvelopeError: sigstore cannot read the bundle.
        SigstoreMissingError: sigstore is not installed.
    """
    from loractl_registry.trust import _sigstore  # 0.4 s to import

    return _sigstore.claimed(data)


def load_root(path: Path) -> str:
    """Return the text of a root of trust in a file, which `parse_account` looks at.

    Raises:
        TrustedRootError: It is no text.
        RegistryError: The operating system refused.
    """
    with os_errors_named(path):
        data, _ = read_small(path, MAX_ROOT_BYTES)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrustedRootError(f"{path} is not UTF-8 (byte {error.start})") from error


def _require_root(text: str) -> str:
    """Return `text` if it is a root of trust that bundles can be verified with.

    Raises:
        TrustedRootError: It is not.
        SigstoreMissingError: sigstore is not installed.
    """
    if len(text.encode()) > MAX_ROOT_BYTES:
        raise TrustedRootError(f"it is larger than {MAX_ROOT_BYTES} bytes")
    try:
        parse_object(text.encode())
    except StrictJsonError as error:
        raise TrustedRootError(str(error)) from error
    from loractl_registry.trust import _sigstore  # 0.4 s to import

    _sigstore.require_root(text)
    return text


def public_root() -> str:
    """Return the root of the public instance, as sigstore-python has it: shipped with it, or newer from its cache.

    Raises:
        SigstoreMissingError: sigstore is not installed.
    """
    from loractl_registry.trust import _sigstore  # 0.4 s to import

    return _sigstore.public_root()
