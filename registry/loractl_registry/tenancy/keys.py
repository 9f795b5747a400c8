"""API keys: shown once, kept as a keyed hash, found by a visible prefix, and compared in constant time."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from loractl_registry.clock import to_text
from loractl_registry.refs import MAX_NAME_LENGTH, parse_name
from loractl_registry.tenancy.errors import ApiKeyExpiryError, ApiKeyPrefixError
from loractl_registry.tenancy.pepper import Pepper

MAX_HEADER_BYTES = 256
"""Longest value of an Authorization header that is looked at; a key takes 89."""

_PREFIX_BYTES, _SECRET_BYTES = 6, 32
_MARK = "lora"
_PREFIX = re.compile(r"[0-9a-f]{12}", re.ASCII)
_BEARER = re.compile(rb"(?i:bearer) {1,4}(lora_([0-9a-f]{12})_[0-9a-f]{64})")
_PURPOSE = "api-key/1"
_MOMENT_LENGTH = len("2026-01-31T09:00:00.000000Z")
_FILLER = "\0"
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class PresentedKey:
    """A key in clear text, as a client sends it or as it is shown once; only `reveal` gives it away."""

    __slots__ = ("_text", "prefix")

    def __init__(self, prefix: str, text: str) -> None:
        self.prefix = prefix
        self._text = text

    def __repr__(self) -> str:
        return f"PresentedKey({self.prefix})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a key in clear text is not to be pickled")

    def reveal(self) -> str:
        """Return ``lora_PREFIX_SECRET``."""
        return self._text


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: enough to recognise it, too little to use it.

    Attributes:
        prefix: The visible part, 12 hexadecimal digits; unique in a home.
        digest: ``hmac-sha256:hex``, keyed with the pepper, over the whole key, its tenant and its expiry, so that a row
            which was given to another tenant, or another end, by hand matches nothing.
        expires_at: From this moment on it is unknown; None for never.
        revoked_at: When it was revoked; None if it was not.
    """

    prefix: str
    tenant: str
    digest: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_active(self, at: datetime) -> bool:
        """Tell whether it may be used at the moment `at`."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


def create_key(
    tenant: str, *, pepper: Pepper, actor: str, at: datetime, expires_at: datetime | None = None
) -> tuple[PresentedKey, ApiKey]:
    """Return a new key with 256 bits of secret: the text, to be shown once, and what is to be kept of it.

    Raises:
        InvalidNameError: `tenant` is no name.
        ApiKeyExpiryError: `expires_at` is not after `at`.
    """
    parse_name(tenant)
    if expires_at is not None and expires_at <= at:
        raise ApiKeyExpiryError(expires_at)
    prefix = secrets.token_hex(_PREFIX_BYTES)
    shown = PresentedKey(prefix, f"{_MARK}_{prefix}_{secrets.token_hex(_SECRET_BYTES)}")
    digest = _digest(pepper, shown, _bound(tenant, expires_at))
    return shown, ApiKey(prefix, tenant, digest, created_at=at, created_by=actor, expires_at=expires_at)


def parse_bearer(values: Sequence[bytes]) -> PresentedKey | None:
    """Return the key in the values of a request's Authorization headers, or None.

    There must be exactly one, and it well-formed. Linear in at most 256 bytes, whatever a client sends.
    """
    if len(values) != 1 or len(values[0]) > MAX_HEADER_BYTES:
        return None
    found = _BEARER.fullmatch(values[0])
    return None if found is None else PresentedKey(found[2].decode("ascii"), found[1].decode("ascii"))


def parse_prefix(text: str) -> str:
    """Return the prefix that `text` is, with or without ``lora_`` before it.

    Raises:
        ApiKeyPrefixError: It is anything else, such as a whole key.
    """
    prefix = text.removeprefix(f"{_MARK}_")
    if not _PREFIX.fullmatch(prefix):
        raise ApiKeyPrefixError
    return prefix


class _Entry(NamedTuple):
    """A key as the ring compares it: everything of varying cost is done beforehand."""

    key: ApiKey | None
    digest: str
    bound: bytes
    ends_at: datetime


class KeyRing:
    """Every key of a home at one moment; immutable, so that a reader never sees half a change."""

    __slots__ = ("_decoy", "_entries", "_pepper")

    def __init__(self, keys: Iterable[ApiKey], pepper: Pepper) -> None:
        self._entries: Mapping[str, _Entry] = {key.prefix: _entry(key) for key in keys}
        self._pepper = pepper
        # What an unknown prefix is compared with; nobody holds its secret.
        self._decoy = _Entry(None, _written(secrets.token_bytes(_SECRET_BYTES)), _bound("", None), _LAST)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, presented: PresentedKey, *, at: datetime) -> ApiKey | None:
        """Return the key that `presented` is, or None: unknown, wrong, expired and revoked are one answer.

        Takes the same steps in each of these cases: one look-up, one HMAC over as many bytes, two comparisons.
        """
        entry = self._entries.get(presented.prefix, self._decoy)
        digest = _digest(self._pepper, presented, entry.bound)
        is_same = hmac.compare_digest(digest, entry.digest)
        is_active = at < entry.ends_at
        return entry.key if is_same & is_active else None


def _entry(key: ApiKey) -> _Entry:
    ends_at = _FIRST if key.revoked_at is not None else key.expires_at or _LAST
    return _Entry(key, key.digest, _bound(key.tenant, key.expires_at), ends_at)


def _digest(pepper: Pepper, key: PresentedKey, bound: bytes) -> str:
    return _written(pepper.mac(_PURPOSE, key.reveal().encode("ascii") + bound))


def _bound(tenant: str, expires_at: datetime | None) -> bytes:
    """Return what a key is bound to, always as many bytes, so that the time says nothing about the tenant."""
    until = "" if expires_at is None else to_text(expires_at)
    return (tenant.ljust(MAX_NAME_LENGTH, _FILLER) + until.ljust(_MOMENT_LENGTH, _FILLER)).encode("ascii")


def _written(digest: bytes) -> str:
    return f"hmac-sha256:{digest.hex()}"
