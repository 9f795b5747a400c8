"""The kept prefix: a sealed note that the first statements of the home were verified, so that nobody does it twice.

The note is worth as much as the secret that seals it, which only the account of the home can read. Whatever is doubtful
about either counts as if it were not there: then everything is verified, and both are written anew (ADR 20).
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sqlite3
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cryptography

from loractl_registry._context import Context
from loractl_registry._files import write_whole
from loractl_registry._store import statements
from loractl_registry._store.rows import to_json
from loractl_registry.clock import from_text, to_text
from loractl_registry.errors import RegistryError
from loractl_registry.strict_json import StrictJsonError, parse_object
from loractl_registry.trust import Chain, Transcript, TrustError, reopen_chain

NOTE, SECRET = "verified.json", "keys/verified-secret"
SECRET_BYTES = 32
PRIVATE_MODE = 0o600
RULES = 1
"""Raise it with every change of what verifying refuses: what was verified by other rules is verified again."""

_MAX_NOTE_BYTES = 4096
_PURPOSE = b"loractl-verified-prefix/1\0"


@dataclass(frozen=True, slots=True)
class _Note:
    """What was verified.

    Attributes:
        home: Id of the home.
        verifier: By which rules, and by what.
        statements: How many, from the first on.
        transcript: Digest over their rows.
        latest: The latest date in them.
        seal: Over all the others, made with the secret of the home.
    """

    home: str
    verifier: str
    statements: int
    transcript: str
    latest: str
    seal: str = ""


def resume(context: Context, connection: sqlite3.Connection) -> Chain | None:
    """Return the part of the chain that is known to verify, without verifying it; None where anything is doubtful.

    Reads and hashes every row that it stands for. Who is trusted, and what depends on the time, is judged anew.
    """
    note = _read_note(context.home)
    if note is None or note.verifier != _verifier():
        return None
    rows = statements.select(connection)[: note.statements]
    transcript = Transcript()
    for row in rows:
        transcript.add(row.digest, row.kind, row.subject, row.envelope)
    if len(rows) != note.statements or transcript.hexdigest() != note.transcript:
        return None
    try:
        chain = reopen_chain(rows, transcript, latest=from_text(note.latest), now=context.clock())
    except TrustError:  # verifying everything says what is wrong
        return None
    if chain.trust.home != note.home:
        return None
    context.verified.noted = note.statements
    return chain


def keep(context: Context, chain: Chain) -> None:
    """Note that `chain` was verified, unless that is what the note says already.

    Without the right to write in the home, the next process verifies everything again, and nothing else is lost.
    """
    if context.verified.noted == chain.sequence:
        return
    with suppress(RegistryError, OSError):
        note = _Note(chain.trust.home, _verifier(), chain.sequence, chain.transcript.hexdigest(), to_text(chain.latest))
        secret = _read_secret(context.home) or _new_secret(context.home)
        if secret is not None:
            sealed = replace(note, seal=_seal(note, secret))
            write_whole(context.home / NOTE, to_json(asdict(sealed)).encode(), PRIVATE_MODE)
            context.verified.noted = chain.sequence


def _read_note(home: Path) -> _Note | None:
    """Return the note of `home` if it bears the seal of its secret."""
    secret, held = _read_secret(home), _read_private(home / NOTE, _MAX_NOTE_BYTES)
    if secret is None or held is None:
        return None
    try:
        fields = parse_object(held[0])
        note = _Note(**fields)  # type: ignore[arg-type]  # nothing is believed of it before its seal is
        is_sealed = hmac.compare_digest(_seal(note, secret), str(note.seal))
    except (StrictJsonError, TypeError, ValueError):
        return None
    return note if is_sealed else None


def _seal(note: _Note, secret: bytes) -> str:
    message = json.dumps(asdict(replace(note, seal="")), sort_keys=True).encode()
    return hmac.digest(secret, _PURPOSE + message, "sha256").hex()


def _read_secret(home: Path) -> bytes | None:
    """Return what seals: the secret of `home` and which file it lies in, so that a copy of that file is another."""
    held = _read_private(home / SECRET, SECRET_BYTES)
    if held is None or len(held[0]) != SECRET_BYTES:
        return None
    secret, found = held
    return secret + b"%d %d" % (found.st_ino, found.st_ctime_ns)


def _new_secret(home: Path) -> bytes | None:
    path = home / SECRET
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(path, secrets.token_bytes(SECRET_BYTES), PRIVATE_MODE)
    return _read_secret(home)


def _read_private(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result] | None:
    """Return what is in a file of ours that nobody else may read or write, and its stat; None if it is any other."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
            return None
        data = stream.read(max_bytes + 1)
    return (data, found) if len(data) <= max_bytes else None


def _verifier() -> str:
    try:
        keyless = version("sigstore")
    except PackageNotFoundError:
        keyless = "none"
    return f"rules {RULES}, loractl {version('loractl')}, cryptography {cryptography.__version__}, sigstore {keyless}"
