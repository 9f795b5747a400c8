"""What a thief of a private key can do: sign anything, and append it to the chain past the triggers."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import rfc8785
from attacks.scene import Scene
from support.tampering import DATABASE, run_sql

from loractl_registry.trust import load_key, sign_envelope
from loractl_registry.trust.statements import PAYLOAD_TYPE, digest_of

Json = dict[str, object]


@dataclass(frozen=True)
class Stored:
    """A statement as it stands in the database."""

    sequence: int
    kind: str
    subject: str
    envelope: str

    @property
    def payload(self) -> bytes:
        return payload_in(self.envelope)

    @property
    def body(self) -> Json:
        return dict(json.loads(self.payload))


def payload_in(envelope: str | bytes) -> bytes:
    """Return what is in an envelope, or in that of a bundle."""
    held = json.loads(envelope)
    return base64.b64decode(held.get("dsseEnvelope", held)["payload"])


def stored(home: Path) -> list[Stored]:
    """Return the chain of a home."""
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as connection:
        rows = connection.execute("SELECT sequence, kind, subject, envelope FROM statement ORDER BY sequence")
        return [Stored(*row) for row in rows]


def promotion_of(scene: Scene, subject: str, *, like: str = "bot@1") -> Json:
    """Return what was signed when `like` went live, made out to `subject` and to the end of the chain."""
    chain = stored(scene.home)
    said = next(one for one in reversed(chain) if one.subject == like and one.kind == "promotion").body
    with contextlib.closing(sqlite3.connect(scene.home / DATABASE)) as connection:
        name, _, number = subject.partition("@")
        found = "SELECT digest FROM version WHERE name = ? AND number = ?"
        (digest,) = connection.execute(found, (name, int(number))).fetchone()
    predicate = dict(said["predicate"]) | {"sequence": len(chain) + 1, "previous": digest_of(chain[-1].payload)}
    predicate["at"] = chain[-1].body["predicate"]["at"]
    return said | {"subject": [{"name": subject, "digest": {"sha256": digest[7:]}}], "predicate": predicate}


def signed(scene: Scene, body: Json, by: str, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Sign `body` as `by`, who is also named as its signer."""
    key = load_key(scene.key(by))
    predicate = dict(body["predicate"]) | {"signer": {"identity": by, "key_id": key.public.key_id}}
    return sign_envelope(rfc8785.dumps(body | {"predicate": predicate}), payload_type, key)


def append(scene: Scene, envelope: bytes, subject: str, *, kind: str = "promotion") -> None:
    """Put an envelope at the end of the chain."""
    payload = payload_in(envelope)
    text = envelope.decode().replace("'", "''")
    run_sql(
        scene.home,
        f"INSERT INTO statement SELECT max(sequence) + 1, '{digest_of(payload)}', '{kind}', '{subject}', '{text}'"
        " FROM statement",
    )


def forged(
    by: str, subject: str = "sly@1", change: Callable[[Json], Mapping[str, object]] = lambda body: body
) -> Callable[[Scene], None]:
    """Have `by` sign that `subject` went from approved to live, changed, and make its row say so."""

    def spoil(scene: Scene) -> None:
        append(scene, signed(scene, dict(change(promotion_of(scene, subject))), by), subject)
        run_sql(scene.home, f"UPDATE version SET stage = 'live' WHERE name = '{subject.partition('@')[0]}'")

    return spoil


def within(**changes: object) -> Callable[[Json], Json]:
    """Change what the predicate says."""
    return lambda body: body | {"predicate": dict(body["predicate"]) | changes}


def last_edited(change: Callable[[Json], Json]) -> Callable[[Scene], None]:
    """Edit what the newest statement says, and leave its signature."""

    def spoil(scene: Scene) -> None:
        last = stored(scene.home)[-1]
        envelope = json.loads(last.envelope)
        envelope["payload"] = base64.b64encode(rfc8785.dumps(change(last.body))).decode()
        _replace_last(scene, json.dumps(envelope))

    return spoil


def last_envelope(change: Callable[[str], str]) -> Callable[[Scene], None]:
    """Edit the newest envelope as text."""
    return lambda scene: _replace_last(scene, change(stored(scene.home)[-1].envelope))


def _replace_last(scene: Scene, text: str) -> None:
    quoted = text.replace("'", "''")
    run_sql(
        scene.home,
        f"UPDATE statement SET envelope = '{quoted}' WHERE sequence = (SELECT max(sequence) FROM statement)",
    )
