"""A running digest over the statements of a chain exactly as they are kept, index and envelope."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Indexed(Protocol):
    """A statement by what it is found by."""

    @property
    def digest(self) -> str:
        """Digest of the signed bytes, which the next statement names."""
        ...

    @property
    def kind(self) -> str:
        """What it does, as `PredicateType.word` has it."""
        ...

    @property
    def subject(self) -> str:
        """Name of what it is about."""
        ...


class KeptRow(Indexed, Protocol):
    """A statement as a store keeps it. What counts is the envelope; the rest is an index over what it says."""

    @property
    def envelope(self) -> bytes:
        """The DSSE envelope, or the bundle that holds it."""
        ...


class Transcript:
    """SHA-256 over rows in order. Equal digests mean equal rows, because each field goes in with its length."""

    __slots__ = ("_digest",)

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"loractl statements/1\n")

    def copy(self) -> Transcript:
        """Return one that goes on from here by itself."""
        copied = Transcript()
        copied._digest = self._digest.copy()
        return copied

    def add(self, digest: str, kind: str, subject: str, envelope: bytes) -> None:
        """Go on with the next row."""
        index = f"{len(digest)} {len(kind)} {len(subject)} {len(envelope)}\n{digest}{kind}{subject}"
        self._digest.update(index.encode())
        self._digest.update(envelope)

    def hexdigest(self) -> str:
        """Return the digest of all rows so far, in hexadecimal."""
        return self._digest.hexdigest()
