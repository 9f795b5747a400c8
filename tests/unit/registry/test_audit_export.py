"""The record of a home, verified without the home: every edit of it is found and named."""

import json
import shutil
from datetime import timedelta

import pytest
from support.tampering import copied, restored

from loractl_registry import Ref, Registry, Stage
from loractl_registry._store.chaining import chained_digest
from loractl_registry.audit_records import AuditRecordError, read_record
from loractl_registry.audit_verifying import AnchorError, parse_anchor, verify_record
from loractl_registry.ledger.errors import NoSuchIdentityError
from loractl_registry.refusals import FileExistsRefusedError
from loractl_registry.trust.errors import TrustError

BOT = Ref("bot", 1)


@pytest.fixture
def told(registry, add, tmp_path):
    """A home in which a few things happened, and its record."""
    add("bot", 1)
    add("bot", 2)
    registry.promote(BOT, actor="ada", to=Stage.LIVE)
    registry.promote(Ref("bot", 2), actor="ada", to=Stage.LIVE)
    registry.revoke(BOT, actor="ada", reason="leaks")
    return registry.export_audit(tmp_path / "audit.jsonl")


@pytest.fixture
def verify(told, clock):
    def _verify(file=None, *, anchor=None, witnesses=()):
        record = read_record(file or told.file)
        return verify_record(record, anchor or told.home, clock.now + timedelta(minutes=1), witnesses=witnesses)

    return _verify


def lines_of(file):
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def written(file, lines):
    text = "".join(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n" for line in lines)
    file.write_text(text)
    return file


def places(lines, kind):
    return [place for place, line in enumerate(lines) if line[0] == kind]


def rechained(lines):
    """Give every event the digest that fits what it now says, as whoever edits one would."""
    previous = ""
    for place in places(lines, "event"):
        previous = chained_digest(previous, lines[place][1:-1])
        lines[place][-1] = previous
    return lines


def test_record_verifies_by_home_or_by_first_key_alone(told, verify, home):
    for anchor in (told.home, told.root_key_id, parse_anchor(str(home / "keys/ada.pem.pub"))):
        found = verify(anchor=anchor)
        assert found.problems == ()
    assert (found.statements, found.head, found.witnessed) == (told.statements, told.head, told.statements)


def test_equal_records_are_equal_bytes_and_nothing_is_overwritten(told, registry, tmp_path):
    registry.export_audit(tmp_path / "again.jsonl")

    assert (tmp_path / "again.jsonl").read_bytes() == told.file.read_bytes()
    with pytest.raises(FileExistsRefusedError):
        registry.export_audit(told.file)


def test_home_in_which_nothing_was_signed_has_no_record(registry, tmp_path):
    with pytest.raises(NoSuchIdentityError):
        registry.export_audit(tmp_path / "audit.jsonl")


def test_record_holds_no_private_key(told):
    assert "PRIVATE" not in told.file.read_text()


def edit_statement(lines):
    place = places(lines, "statement")[3]
    lines[place][1] = lines[place][1].replace('"sig":"M', '"sig":"N', 1)


def swap_statements(lines):
    one, other = places(lines, "statement")[2:4]
    lines[one], lines[other] = lines[other], lines[one]


def repeat_statement(lines):
    one, *_, last = places(lines, "statement")
    lines.insert(last + 1, lines[one + 2])


def edit_event(lines):
    lines[places(lines, "event")[4]][4] = "bot@9"


def edit_event_and_rechain(lines):
    place = next(p for p in places(lines, "event") if lines[p][4] == "adapter.revoke")
    lines[place][5], lines[place][7] = "bot@2", "revoked"
    rechained(lines)


def edit_signer_and_rechain(lines):
    place = next(p for p in places(lines, "event") if lines[p][4] == "adapter.revoke")
    lines[place][9] = (
        lines[place][9].replace('"signer":"ada"', '"signer":"eve"').replace('"signer": "ada"', '"signer": "eve"')
    )
    rechained(lines)


def remove_event_and_rechain(lines):
    place = next(p for p in places(lines, "event") if lines[p][4] == "adapter.revoke")
    del lines[place]
    for number, each in enumerate(places(lines, "event"), 1):
        lines[each][1] = number
    rechained(lines)


def invent_event(lines):
    last = places(lines, "event")[-1]
    row = list(lines[last])
    row[1], row[9] = row[1] + 1, json.dumps({"statement": "sha256:" + "0" * 64})
    lines.insert(last + 1, row)
    rechained(lines)


def other_key(lines):
    place = places(lines, "key")[0]
    lines[place][3] = lines[place][3].replace("A", "B", 1)


ATTACKS = [
    pytest.param(edit_statement, "statement 4 of the chain", id="statement-edited"),
    pytest.param(lambda lines: lines.pop(places(lines, "statement")[3]), "statement 4 of the chain", id="removed"),
    pytest.param(swap_statements, "statement 3 of the chain", id="statements-reordered"),
    pytest.param(repeat_statement, "of the chain", id="statement-repeated"),
    pytest.param(
        lambda lines: lines.pop(places(lines, "statement")[-1]), "checkpoint has seen", id="statements-truncated"
    ),
    pytest.param(lambda lines: lines.pop(places(lines, "statement")[0]), "a chain begins with", id="beginning-cut"),
    pytest.param(lambda lines: lines.pop(), "the checkpoint in it is missing", id="checkpoint-removed"),
    pytest.param(edit_event, "audit row 5 or the one before it was changed", id="event-edited"),
    pytest.param(edit_event_and_rechain, "says bot@2 revoked, and its statement bot@1", id="event-edited-rechained"),
    pytest.param(edit_signer_and_rechain, "names another signer", id="signer-edited-rechained"),
    pytest.param(
        lambda lines: lines.pop(places(lines, "event")[4]), "audit rows 5 to 5 are missing", id="event-removed"
    ),
    pytest.param(remove_event_and_rechain, "is named by no event", id="event-removed-rechained"),
    pytest.param(lambda lines: lines.pop(places(lines, "event")[-1]), "is named by no event", id="events-truncated"),
    pytest.param(invent_event, "which is not there", id="event-invented"),
    pytest.param(other_key, "is not the one that the statements trust", id="key-swapped"),
    pytest.param(lambda lines: lines.pop(places(lines, "key")[0]), "is not the one that", id="key-removed"),
    pytest.param(lambda lines: lines[0].__setitem__(2, "0" * 64), "its header names home", id="header-edited"),
]


@pytest.mark.parametrize(("attack", "said"), ATTACKS)
def test_edit_of_the_record_is_found_and_named(told, verify, tmp_path, attack, said):
    lines = lines_of(told.file)
    attack(lines)

    found = verify(written(tmp_path / "edited.jsonl", lines))

    assert any(said in problem for problem in found.problems), found.problems


def test_events_in_another_order_are_found(told, verify, tmp_path):
    lines = lines_of(told.file)
    one, other = places(lines, "event")[2:4]
    lines[one], lines[other] = lines[other], lines[one]

    assert any("stands where row" in one for one in verify(written(tmp_path / "edited.jsonl", lines)).problems)


def test_record_of_another_home_is_not_taken_for_this_one(told, verify, tmp_path, clock):
    with Registry.open(tmp_path / "other", clock=clock) as other:
        other.identities.create("ada", actor="ada")
        made = other.export_audit(tmp_path / "other.jsonl")

    foreign = verify(made.file)

    assert any("not of" in problem for problem in foreign.problems)
    assert verify(made.file, anchor=made.home).problems == ()


def test_both_halves_cut_to_an_older_record_are_found_by_a_checkpoint_that_was_kept_elsewhere(
    registry, add, told, verify, home, tmp_path
):
    older = told.file
    registry.promote(Ref("bot", 2), actor="ada", to=Stage.LIVE)
    registry.retire(Ref("bot", 2), actor="ada", reason="x")
    kept = (home / "checkpoint.json").read_bytes()

    alone, with_witness = verify(older), verify(older, witnesses=[("kept.json", kept)])

    assert alone.problems == ()
    assert any("kept.json" in one and "checkpoint has seen" in one for one in with_witness.problems)


def test_fork_by_somebody_with_the_keys_is_found_by_a_checkpoint_that_was_kept_elsewhere(
    registry, told, verify, home, tmp_path, clock
):
    fork = tmp_path / "fork"
    shutil.copytree(home, fork)
    restored(fork, copied(home, tmp_path / "backup.db"))
    with Registry.open(fork, clock=clock) as other:
        other.retire(Ref("bot", 2), actor="ada", reason="one story")
        forked = other.export_audit(tmp_path / "fork.jsonl")
    registry.revoke(Ref("bot", 2), actor="ada", reason="another story")
    kept = (home / "checkpoint.json").read_bytes()

    alone, compared = verify(forked.file), verify(forked.file, witnesses=[("kept.json", kept)])

    assert alone.problems == ()
    assert any("kept.json" in problem for problem in compared.problems)


@pytest.mark.parametrize("text", ["", "abc", "/no/such/key.pub", "g" * 64])
def test_what_is_no_anchor_is_refused(text):
    with pytest.raises(AnchorError):
        parse_anchor(text)


def test_private_key_is_no_anchor(told, home):
    with pytest.raises(TrustError):
        parse_anchor(str(home / "keys/ada.pem"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda data: b"", "the file is empty", id="empty"),
        pytest.param(lambda data: data[:-20], "is not JSON", id="cut-within-a-line"),
        pytest.param(lambda data: data.replace(b'["event",', b'["event", ', 1), "one spelling", id="other-spelling"),
        pytest.param(lambda data: data.replace(b"loractl-audit/1", b"loractl-audit/9"), "format", id="other-format"),
        pytest.param(lambda data: data + b'["event",1]\n', "where none may stand", id="after-the-end"),
        pytest.param(lambda data: data + data.splitlines(True)[-1], "second checkpoint", id="two-checkpoints"),
        pytest.param(lambda data: data + b"x" * (2**20 + 1), "is longer than", id="long-line"),
        pytest.param(lambda data: data.replace(b'["key",', b'["lock",', 1), "no kind", id="unknown-kind"),
        pytest.param(lambda data: b"\xff\xfe" + data, "is not JSON", id="not-text"),
        pytest.param(lambda data: b"".join(data.splitlines(True)[1:]), "where none may stand", id="no-header"),
        pytest.param(lambda data: data.replace(b'["event",1,', b'["event","1",', 1), "no row", id="no-row"),
        pytest.param(lambda data: b"[" * 100_000, "is not JSON", id="nested"),
    ],
)
def test_malformed_record_is_refused_by_its_line(told, tmp_path, change, said):
    file = tmp_path / "malformed.jsonl"
    file.write_bytes(change(told.file.read_bytes()))

    with pytest.raises(AuditRecordError, match=said):
        read_record(file)


@pytest.mark.parametrize("place", range(0, 4000, 97))
def test_no_flipped_byte_goes_unnoticed(told, verify, tmp_path, place):
    data = bytearray(told.file.read_bytes())
    data[place * len(data) // 4000] ^= 0x01
    file = tmp_path / "flipped.jsonl"
    file.write_bytes(data)

    try:
        problems = verify(file).problems
    except AuditRecordError:
        return

    assert problems
