"""The record of a home as one file: every signed statement, every audit row, the public keys and the checkpoint.

JSON Lines: a header, then keys, statements, rows and the checkpoint, each line an array of its kind and its content in
one fixed spelling, so that equal records are equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

from loractl_registry._context import Context
from loractl_registry._files import written_beside
from loractl_registry._store import audit, statements
from loractl_registry._store.chaining import Value
from loractl_registry.errors import DeniedError
from loractl_registry.ledger.chains import Seen, checked_chain, read_checkpoint
from loractl_registry.ledger.errors import NoSuchIdentityError
from loractl_registry.trust import Chain

FORMAT = "loractl-audit/1"
MAX_LINE_BYTES = 2**20
MAX_BYTES = 2**30

_COLUMNS = 10


class Kind(StrEnum):
    """What one line holds, in the order in which they come."""

    HEADER = "header"
    KEY = "key"
    STATEMENT = "statement"
    EVENT = "event"
    CHECKPOINT = "checkpoint"


class AuditRecordError(DeniedError):
    """The file is not a record as ``audit export`` writes it."""

    code = "registry.audit_record"

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(f"refused {name}: line {line} {problem}", hint="export it again: loractl audit export FILE")
        self.name, self.line = name, line


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What a file says; nothing of it is verified.

    Attributes:
        keys: Owner and PEM by key id.
        statements: Envelopes.
        events: Rows of the audit log, the digest last.
        checkpoint: Envelope, None where there is none.
    """

    home: str
    keys: dict[str, tuple[str, str]]
    statements: tuple[bytes, ...]
    events: tuple[tuple[Value, ...], ...]
    checkpoint: bytes | None


@dataclass(frozen=True, slots=True)
class AuditExported:
    """The file that was written.

    Attributes:
        head: Digest of the newest statement.
        root_key_id: Key of the first identity; with it, or with `home`, anybody can verify the file.
    """

    file: Path
    home: str
    root_key_id: str
    statements: int
    events: int
    head: str


def export_record(context: Context, file: Path) -> AuditExported:
    """Write the record of the home; see `Governing.export_audit`."""
    seen = read_checkpoint(context)
    with context.database.reading() as connection:
        chain = checked_chain(context, connection, seen)
        if chain is None:
            raise NoSuchIdentityError("root", [])
        envelopes, events = statements.envelopes_after(connection, 0), list(audit.rows(connection))
    with written_beside(file) as part, part.open("wb") as stream:
        for line in _lines(chain, envelopes, events, seen):
            stream.write(line)
    root = chain.trust.root.key_id
    return AuditExported(file, chain.trust.home, root, len(envelopes), len(events), chain.head)


def read_record(file: Path) -> AuditRecord:
    """Read a file that somebody handed over.

    Raises:
        AuditRecordError: It is malformed; the message names the line.
        OSError: It cannot be read.
    """
    if file.stat().st_size > MAX_BYTES:
        raise AuditRecordError(str(file), 1, f"is in a file of more than {MAX_BYTES} bytes")
    with file.open("rb") as stream:
        return _read(stream, str(file))


def _lines(chain: Chain, envelopes: list[bytes], events: list[tuple[Value, ...]], seen: Seen) -> Iterator[bytes]:
    yield _line(Kind.HEADER, FORMAT, chain.trust.home)
    owners = {grant.key.key_id: grant.identity for grant in chain.trust.grants}
    for key in sorted(chain.trust.keys, key=lambda key: key.key_id):
        yield _line(Kind.KEY, key.key_id, owners[key.key_id], key.pem)
    for envelope in envelopes:
        yield _line(Kind.STATEMENT, envelope.decode("ascii"))
    for row in events:
        yield _line(Kind.EVENT, *row)
    if seen.envelope is not None:
        yield _line(Kind.CHECKPOINT, seen.envelope.decode("ascii"))


def _line(kind: Kind, *content: Value) -> bytes:
    return (json.dumps([kind.value, *content], ensure_ascii=True, separators=(",", ":")) + "\n").encode()


def _read(stream: BinaryIO, name: str) -> AuditRecord:
    home, checkpoint = "", None
    keys: dict[str, tuple[str, str]] = {}
    envelopes: list[bytes] = []
    events: list[tuple[Value, ...]] = []
    reached, number = 0, 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        kind, content = _parsed(line, name, number)
        place = list(Kind).index(kind)
        if place < reached or (place == reached == 0 and number > 1) or (kind is not Kind.HEADER and number == 1):
            raise AuditRecordError(name, number, f"is a {kind} where none may stand")
        reached = place
        match kind:
            case Kind.HEADER:
                home = _header(content, name)
            case Kind.KEY:
                key_id, owner, pem = _texts(content, 3, name, number)
                keys[key_id] = (owner, pem)
            case Kind.STATEMENT:
                envelopes.append(_texts(content, 1, name, number)[0].encode())
            case Kind.EVENT:
                events.append(_event(content, name, number))
            case Kind.CHECKPOINT:
                if checkpoint is not None:
                    raise AuditRecordError(name, number, "is a second checkpoint")
                checkpoint = _texts(content, 1, name, number)[0].encode()
    if not number:
        raise AuditRecordError(name, 1, "is missing: the file is empty")
    return AuditRecord(home, keys, tuple(envelopes), tuple(events), checkpoint)


def _parsed(line: bytes, name: str, number: int) -> tuple[Kind, list[Value]]:
    if len(line) > MAX_LINE_BYTES:
        raise AuditRecordError(name, number, f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        held = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise AuditRecordError(name, number, "is not JSON") from error
    if not isinstance(held, list) or not held:
        raise AuditRecordError(name, number, "is no array")
    kind, *content = cast("list[object]", held)
    if kind not in set(Kind) or not all(one is None or type(one) in (str, int) for one in content):
        raise AuditRecordError(name, number, "is of no kind that is known")
    values = cast("list[Value]", content)
    if _line(Kind(str(kind)), *values) != line:
        raise AuditRecordError(name, number, "is not in the one spelling that it has")
    return Kind(str(kind)), values


def _header(content: list[Value], name: str) -> str:
    found, home = _texts(content, 2, name, 1)
    if found != FORMAT:
        raise AuditRecordError(name, 1, f"says format {found[:40]!r}, and this loractl reads {FORMAT}")
    return home


def _texts(content: list[Value], count: int, name: str, number: int) -> list[str]:
    texts = [one for one in content if isinstance(one, str)]
    if len(texts) != count or len(content) != count:
        raise AuditRecordError(name, number, f"must hold {count} texts")
    return texts


def _event(content: list[Value], name: str, number: int) -> tuple[Value, ...]:
    is_row = len(content) == _COLUMNS and isinstance(content[0], int)
    if not is_row or not all(isinstance(content[place], str) for place in (1, 2, 3, 4, 8, 9)):
        raise AuditRecordError(name, number, "is no row of an audit log")
    return tuple(content)
