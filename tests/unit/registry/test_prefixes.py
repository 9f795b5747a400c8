"""The kept prefix: what was verified once is hashed and not verified again, and whatever is doubtful is."""

import json
import os
import shutil
import sqlite3
from datetime import timedelta

import pytest
from support.notes import NOTE, SECRET, chain_by, make_note_fit, rows_of, swap_statement
from support.tampering import DATABASE, run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry.ledger import prefixes
from loractl_registry.ledger.chains import checked_chain, resumed_chain
from loractl_registry.ledger.standing import Standings
from loractl_registry.trust import PublicKey, TrustError

BOT, SLY, GONE = Ref("bot", 1), Ref("sly", 1), Ref("gone", 1)


@pytest.fixture
def shop(registry, add):
    """A live bot, a candidate that is sly, and a version that was revoked."""
    for name, seed, to in (("bot", 1, Stage.LIVE), ("sly", 2, Stage.CANDIDATE), ("gone", 3, Stage.LIVE)):
        add(name, seed)
        registry.promote(Ref(name, 1), actor="ada", to=to)
    registry.revoke(GONE, actor="ada", reason="leaks")
    return registry


@pytest.fixture
def counted(monkeypatch):
    """Count the signatures that are verified."""
    verified, has_signed = [], PublicKey.has_signed

    def count(self, data, signature):
        verified.append(self.key_id)
        return has_signed(self, data, signature)

    monkeypatch.setattr(PublicKey, "has_signed", count)
    return verified


def resumed(home, clock):
    return chain_by(resumed_chain, home, clock)


def note_of(home):
    return json.loads((home / NOTE).read_text())


def test_next_process_verifies_the_checkpoint_alone(shop, home, clock, counted):
    resumed(home, clock)

    assert len(counted) == 1


def test_what_came_after_the_note_is_verified(shop, home, clock, counted):
    note = (home / NOTE).read_bytes()
    shop.demote(SLY, actor="ada", reason="look again")
    (home / NOTE).write_bytes(note)
    counted.clear()

    resumed(home, clock)

    assert len(counted) == 2
    assert note_of(home)["statements"] == len(rows_of(home))


def test_writing_notes_its_own_statements(shop, home):
    assert note_of(home)["statements"] == len(rows_of(home))
    assert ((home / NOTE).stat().st_mode & 0o777, (home / SECRET).stat().st_mode & 0o777) == (0o600, 0o600)


def test_resumed_chain_is_the_one_that_is_verified(shop, home, clock):
    whole, again = chain_by(checked_chain, home, clock), resumed(home, clock)

    assert (whole.reopened, again.reopened) == (0, len(rows_of(home)))
    assert [(one.digest, one.kind, one.subject, one.statement) for one in again.statements] == [
        (one.digest, one.kind, one.subject, one.statement) for one in whole.statements
    ]
    assert (again.trust, again.latest, again.head) == (whole.trust, whole.latest, whole.head)
    assert again.transcript.hexdigest() == whole.transcript.hexdigest()
    assert dict(Standings(again)) == dict(Standings(whole))
    assert Standings(again).revoked() == Standings(whole).revoked()


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda registry, _: registry.snapshot("tiny-moe"), id="serving"),
        pytest.param(lambda registry, _: registry.identities.verify(), id="audit-verify"),
        pytest.param(lambda registry, tmp: registry.export_audit(tmp / "record.jsonl"), id="audit-export"),
        pytest.param(lambda registry, _: registry.verify(), id="verify"),
        pytest.param(lambda registry, _: registry.identities.checkpoint(actor="ada", reason="x"), id="checkpoint"),
    ],
)
def test_what_serves_or_vouches_verifies_everything_even_after_a_resumed_look(
    shop, home, clock, counted, tmp_path, ask
):
    with Registry.open(home, clock=clock) as fresh:
        fresh.policies.explain(BOT, actor="ada")
        counted.clear()

        ask(fresh, tmp_path)

    assert len(counted) >= len(rows_of(home))


def _loosened(home):
    (home / SECRET).chmod(0o640)


def _emptied(home):
    (home / NOTE).write_text("")


def _grown(home):
    (home / NOTE).write_text((home / NOTE).read_text() + " " * 5000)


def _with_a_field_more(home):
    (home / NOTE).write_text(json.dumps(note_of(home) | {"also": 1}))


def _with_other_types(home):
    (home / NOTE).write_text(json.dumps({name: ["é", {}] for name in note_of(home)}))


def _fifo(home):
    (home / NOTE).unlink()
    os.mkfifo(home / NOTE, 0o600)


def _linked(home):
    (home / NOTE).rename(home / "elsewhere.json")
    (home / NOTE).symlink_to(home / "elsewhere.json")


def _short_secret(home):
    (home / SECRET).write_bytes(b"short")
    make_note_fit(home)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda home: (home / NOTE).unlink(), id="no-note"),
        pytest.param(lambda home: (home / SECRET).unlink(), id="no-secret"),
        pytest.param(_loosened, id="secret-that-others-read"),
        pytest.param(lambda home: (home / NOTE).chmod(0o666), id="note-that-others-write"),
        pytest.param(_short_secret, id="short-secret"),
        pytest.param(_emptied, id="empty"),
        pytest.param(_grown, id="too-large"),
        pytest.param(_with_a_field_more, id="field-more"),
        pytest.param(_with_other_types, id="other-types"),
        pytest.param(_fifo, id="fifo"),
        pytest.param(_linked, id="link"),
        pytest.param(lambda home: (home / NOTE).write_text("[" * 3000), id="deep"),
        pytest.param(lambda home: (home / NOTE).write_bytes(b"\xff\xfe"), id="no-text"),
    ],
)
def test_doubtful_note_is_as_none_and_is_written_anew(shop, home, clock, counted, spoil):
    spoil(home)

    resumed(home, clock)
    again = len(counted)
    counted.clear()
    resumed(home, clock)

    assert again == len(rows_of(home)) + 1
    assert len(counted) == 1


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param("digest = 'sha256:' || printf('%064d', 7)", id="digest"),
        pytest.param("subject = 'sly@1'", id="subject"),
        pytest.param("kind = 'approval'", id="kind"),
        pytest.param("envelope = envelope || ' '", id="envelope"),
    ],
)
@pytest.mark.parametrize("sequence", [1, 2, 5, 13])
def test_row_that_differs_in_anything_is_not_resumed(shop, home, clock, edit, sequence):
    run_sql(home, f"UPDATE statement SET {edit} WHERE sequence = {sequence}")

    assert resumed(home, clock).reopened == 0


def test_statement_that_is_filed_elsewhere_is_named(shop, home):
    run_sql(home, "UPDATE statement SET subject = 'bot@1', kind = 'promotion' WHERE kind = 'revocation'")

    (problem,) = shop.identities.verify().problems

    assert problem == "statement 14 is revocation of gone@1, and the database files it under promotion of bot@1"


@pytest.mark.parametrize("sequence", [2, 5, 12])
def test_statement_that_was_swapped_is_refused_as_without_a_note(shop, home, clock, sequence):
    swap_statement(home, sequence, at="2026-01-31T09:00:00Z")

    with pytest.raises(TrustError):
        chain_by(checked_chain, home, clock)
    with pytest.raises(TrustError):
        resumed(home, clock)


def test_table_that_was_made_anew_without_its_types_is_refused(shop, home, clock):
    with sqlite3.connect(home / DATABASE) as connection:
        connection.executescript(
            "ALTER TABLE statement RENAME TO old; CREATE TABLE statement (sequence, digest, kind, subject, envelope);"
            "INSERT INTO statement SELECT sequence, CAST(digest AS BLOB), NULL, 7, NULL FROM old;"
        )

    with pytest.raises(TrustError):
        resumed(home, clock)


def test_clock_that_was_set_back_is_noticed_all_the_same(shop, home, clock):
    clock.now -= timedelta(days=1)

    with pytest.raises(TrustError, match="dated"):
        resumed(home, clock)


def test_other_rules_verify_everything_again(shop, home, clock, counted, monkeypatch):
    monkeypatch.setattr(prefixes, "RULES", prefixes.RULES + 1)

    resumed(home, clock)

    assert len(counted) == len(rows_of(home)) + 1


def test_copied_home_verifies_everything_once(shop, home, clock, counted, tmp_path):
    shop.close()
    shutil.copytree(home, tmp_path / "copy", copy_function=shutil.copy2)
    for _ in range(2):
        resumed(tmp_path / "copy", clock)

    assert len(counted) == len(rows_of(home)) + 2


def test_home_that_cannot_be_written_is_read_all_the_same(shop, home, clock, counted, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    (home / NOTE).unlink()
    monkeypatch.setattr(prefixes, "write_whole", refuse)

    assert resumed(home, clock).sequence == len(rows_of(home))
    assert not (home / NOTE).exists()


def test_who_reads_the_secret_can_forge_the_note_and_whatever_serves_or_vouches_refuses(shop, home, clock):
    swap_statement(home, 5, at="2026-01-31T09:00:00Z")
    make_note_fit(home)

    assert resumed(home, clock).reopened == len(rows_of(home))
    with Registry.open(home, clock=clock) as fresh:
        assert fresh.snapshot("tiny-moe").versions == ()
        assert fresh.identities.verify().problems


def test_note_holds_no_secret(shop, home):
    secret = (home / SECRET).read_bytes()

    assert set(note_of(home)) == {"home", "verifier", "statements", "transcript", "latest", "seal"}
    assert secret.hex() not in (home / NOTE).read_text()
