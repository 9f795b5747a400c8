"""Evidence: what is read from it, what is refused, how it is kept, and what a scanner may do."""

import json
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evidence import LM_EVAL, effect_proof
from support.tampering import run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry._store import evidence as rows
from loractl_registry.evidence import (
    MAX_EVIDENCE_BYTES,
    EvidenceError,
    EvidenceNotFoundError,
    EvidenceSizeError,
    EvidenceType,
    NoScannerError,
    ScannerError,
    TooMuchEvidenceError,
    read_effect,
    read_findings,
    run_scanner,
    shelf,
)
from loractl_registry.evidence.reading import MAX_METRICS
from loractl_registry.evidence.scanning import MAX_OUTPUT_BYTES
from loractl_registry.ledger.errors import DisagreementError
from loractl_registry.refusals import DamagedFilesError

BOT = Ref("bot", 1)
EVAL, CARD, SCAN, REVIEW = EvidenceType.EVAL, EvidenceType.CARD, EvidenceType.SCAN, EvidenceType.REVIEW


def python(code):
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("held", "kind", "passed", "metrics"),
    [
        pytest.param(
            LM_EVAL,
            "lm-eval",
            None,
            {"mmlu/acc": 0.63, "mmlu/acc_stderr": 0.004, "gsm8k/exact_match,strict-match": 0.41},
            id="lm-eval",
        ),
        pytest.param({"accuracy": 1, "loss": 0.25}, None, None, {"accuracy": 1.0, "loss": 0.25}, id="flat"),
        pytest.param(
            {"metrics": {"toxicity": 0.01}, "kind": "house", "passed": True, "notes": ["x"]},
            "house",
            True,
            {"toxicity": 0.01},
            id="metrics",
        ),
    ],
)
def test_evaluation_is_read_as_flat_numbers(held, kind, passed, metrics):
    found = read_findings(json.dumps(held).encode(), EVAL)

    assert (found.kind, found.passed, found.metrics) == (kind, passed, metrics)


@pytest.mark.parametrize(
    ("data", "type_", "said"),
    [
        pytest.param(b"accuracy: 0.9", EVAL, "must be a JSON object", id="no-json"),
        pytest.param(b"[1]", EVAL, "must be a JSON object", id="list"),
        pytest.param(b"{}", EVAL, "holds no number", id="nothing"),
        pytest.param(b'{"results": {}}', EVAL, "holds no number", id="lm-eval-without-results"),
        pytest.param(b'{"metrics": {}}', EVAL, "holds no number", id="no-metrics"),
        pytest.param(b'{"metrics": [1]}', EVAL, "'metrics' is", id="metrics-are-a-list"),
        pytest.param(b'{"acc": NaN}', EVAL, "NaN, which is not JSON", id="nan"),
        pytest.param(b'{"acc": Infinity}', EVAL, "not JSON", id="infinity"),
        pytest.param(b'{"acc": 1e999}', EVAL, "too large", id="overflow"),
        pytest.param(b'{"acc": true}', EVAL, "'acc' is True", id="boolean"),
        pytest.param(b'{"acc": "0.9"}', EVAL, "'acc' is '0.9'", id="text"),
        pytest.param(b'{"acc": 0.9, "acc": 0.1}', EVAL, "twice", id="twice"),
        pytest.param(b'{"results": {"t": {"acc": 1, "acc,none": 0}}}', EVAL, "twice", id="twice-after-its-filter"),
        pytest.param(b'{"": 1}', EVAL, "calls a number", id="no-name"),
        pytest.param(b'{"a\\u202eb": 1}', EVAL, "calls a number", id="name-that-turns-around"),
        pytest.param(b'{"acc": 1}\x00', EVAL, "not JSON", id="bytes-behind"),
        pytest.param(b'{"acc": 1, "kind": 3}', EVAL, "'kind' is 3", id="kind-is-a-number"),
        pytest.param(b'{"acc": 1, "kind": "a\\nb"}', EVAL, "kind is", id="kind-of-two-lines"),
        pytest.param(b'{"acc": 1, "passed": 1}', EVAL, "'passed' is 1", id="passed-is-a-number"),
        pytest.param(b"\xff{", EVAL, "must be a JSON object", id="no-text"),
        pytest.param(b'{"acc": "\xff"}', EVAL, "not UTF-8", id="no-utf-8"),
        pytest.param(b"[" * 9 + b"{", EVAL, "must be a JSON object", id="nested-lists"),
        pytest.param(b'{"a":' * 50_000, EVAL, "nested too deeply", id="nested-too-deeply"),
        pytest.param(b"all good", SCAN, "must have passed or failed", id="scan-without-a-verdict"),
        pytest.param(b'{"passed": null}', SCAN, "must have passed or failed", id="scan-that-does-not-know"),
        pytest.param(b'{"broken"', REVIEW, "not JSON", id="review-that-is-broken"),
    ],
)
def test_evidence_that_could_be_read_differently_is_refused(data, type_, said):
    with pytest.raises(EvidenceError, match=said) as caught:
        read_findings(data, type_)

    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"x" * (MAX_EVIDENCE_BYTES + 1)], ids=["empty", "too-large"])
def test_evidence_has_a_size(data):
    with pytest.raises(EvidenceSizeError):
        read_findings(data, CARD)


def test_evidence_has_at_most_so_many_numbers():
    metrics = {f"m{number}": number for number in range(MAX_METRICS + 1)}

    with pytest.raises(EvidenceError, match=f"more than {MAX_METRICS}"):
        read_findings(json.dumps(metrics).encode(), EVAL)


def test_what_is_said_beside_a_file_does_not_contradict_it():
    said = b'{"passed": false, "kind": "clamav"}'

    assert read_findings(said, SCAN, kind="clamav", passed=False).passed is False
    with pytest.raises(EvidenceError, match="says passed False, and you say True"):
        read_findings(said, SCAN, passed=True)
    with pytest.raises(EvidenceError, match="says kind clamav, and you say other"):
        read_findings(said, SCAN, kind="other")
    assert read_findings(b"no virus", SCAN, kind="clamav", passed=True).kind == "clamav"


@given(st.binary(max_size=200), st.sampled_from([EVAL, CARD, SCAN, REVIEW]))
def test_any_bytes_are_read_or_refused(data, type_):
    try:
        found = read_findings(data, type_)
    except (EvidenceError, EvidenceSizeError):
        return
    assert found.type is type_


@given(st.dictionaries(st.text("abc/,_ ", min_size=1, max_size=9), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_come_out_as_they_went_in_or_the_file_is_refused(metrics):
    try:
        found = read_findings(json.dumps({"metrics": metrics}).encode(), EVAL)
    except EvidenceError:
        assert not metrics or any(name != name.strip() for name in metrics)
    else:
        assert found.metrics == metrics


@pytest.fixture
def keep(registry, tmp_path):
    def _keep(data, type_=EVAL, *, ref=BOT, **said):
        file = tmp_path / "evidence"
        file.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return registry.evidence.add(ref, file, type_, actor="ada", **said)

    return _keep


def test_evidence_is_kept_by_digest_with_one_event_and_one_statement(registry, add, keep):
    add()
    before = registry.identities.verify().statements

    added = keep(LM_EVAL)

    event = registry.history("bot")[-1]
    (found,) = registry.evidence.select(BOT)
    record, body = registry.evidence.read(BOT, found.digest[7:19])
    assert (added.is_new, added.evidence, record) == (True, found, found)
    assert json.loads(body) == LM_EVAL
    assert (found.by, found.is_counted, found.metrics["mmlu/acc"]) == ("ada", True, 0.63)
    assert (event.action, event.detail["statement"], event.detail["digest"]) == (
        "adapter.evidence",
        found.statement,
        found.digest,
    )
    assert registry.identities.verify().statements == before + 1
    assert registry.identities.verify().problems == ()


def test_same_evidence_again_is_a_no_op(registry, add, keep):
    add()
    first = keep(LM_EVAL)
    before = registry.history()

    again = keep(LM_EVAL)

    assert (again.is_new, again.evidence) == (False, first.evidence)
    assert registry.history() == before


def test_same_bytes_are_evidence_about_two_versions(registry, add, keep):
    add()
    add("bot", 1)

    first, second = keep(LM_EVAL), keep(LM_EVAL, ref=Ref("bot", 2))

    assert first.evidence.digest == second.evidence.digest
    assert second.is_new
    assert len(registry.evidence.select(BOT)) == len(registry.evidence.select(Ref("bot", 2))) == 1


def test_older_scan_may_be_said_again_because_the_newest_counts(add, keep):
    add()
    bad, good = ({"passed": passed} for passed in (False, True))

    told = [keep(data, SCAN) for data in (bad, bad, good, bad)]

    assert [one.is_new for one in told] == [True, False, True, True]
    assert [one.is_quarantined for one in told] == [True, True, False, True]


def test_version_has_so_much_evidence_and_no_more(add, keep, monkeypatch):
    add()
    monkeypatch.setattr(shelf, "MAX_PIECES", 2)
    for number in range(2):
        keep({"acc": number})

    with pytest.raises(TooMuchEvidenceError):
        keep({"acc": 2})
    assert not keep({"acc": 1}).is_new


def test_refused_evidence_leaves_nothing(registry, add, keep, home):
    add()
    before = registry.history()

    with pytest.raises(EvidenceError):
        keep(b"{")

    assert registry.history() == before
    with sqlite3.connect(home / "registry.db") as connection:
        assert connection.execute("SELECT count(*) FROM evidence_body").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    "digest", ["", "abc", "sha256:", "0" * 64, "zzzz"], ids=["empty", "short", "prefix-alone", "another", "no-digest"]
)
def test_evidence_that_is_not_there_is_not_found(registry, add, keep, digest):
    add()
    keep(LM_EVAL)

    with pytest.raises(EvidenceNotFoundError):
        registry.evidence.read(BOT, digest)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("UPDATE evidence SET metrics = '{\"mmlu/acc\":0.99}'", id="numbers"),
        pytest.param("DELETE FROM evidence", id="removed"),
    ],
)
def test_numbers_that_were_edited_count_for_nothing(registry, add, keep, home, attack):
    add()
    keep(LM_EVAL)
    run_sql(home, attack)

    (found,) = registry.evidence.select(BOT)

    assert not found.is_counted
    assert any("its eval" in problem for problem in registry.identities.verify().problems)


def test_bytes_that_were_edited_are_not_shown(registry, add, keep, home):
    add()
    added = keep(LM_EVAL)
    run_sql(home, "UPDATE evidence_body SET body = x'00'")

    with pytest.raises(EvidenceNotFoundError):
        registry.evidence.read(BOT, added.evidence.digest)
    assert "are others than were signed" in registry.identities.verify().problems[0]
    run_sql(home, "DELETE FROM evidence_body")
    assert "the bytes of its eval" in registry.identities.verify().problems[0]


def test_nothing_is_kept_about_a_row_that_disagrees(add, keep, home):
    add()
    run_sql(home, "UPDATE version SET added_by = 'eve'")

    with pytest.raises(DisagreementError):
        keep(LM_EVAL)


@pytest.mark.parametrize("table", ["file_signature", "evidence", "evidence_body"])
@pytest.mark.parametrize(
    "verb", ["UPDATE {} SET digest = digest", "DELETE FROM {}", "REPLACE INTO {0} SELECT * FROM {0}"]
)
def test_kept_bytes_are_append_only(registry, add, keep, home, table, verb):
    add()
    keep(LM_EVAL)

    with (
        sqlite3.connect(home / "registry.db") as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute(verb.format(table))
    connection.close()


def test_proof_of_effect_must_be_about_these_bytes(registry, add):
    version = add()

    added = registry.evidence.add_effect(BOT, effect_proof(version, passed=False), actor="ada")

    assert (added.evidence.type, added.evidence.kind, added.evidence.passed) == (
        "effect",
        "engine-and-reference",
        False,
    )
    for proof in (
        effect_proof(version, adapter_digest="sha256:" + "0" * 64),
        effect_proof(version, base_digest=None),
        effect_proof(version, schema="another/1"),
        effect_proof(version, kind=3),
        b'{"measured": {}}',
        b"{}",
        b"no json",
    ):
        with pytest.raises(EvidenceError):
            read_effect(proof, version)


def test_evidence_about_a_version_from_before_additions_is_kept(registry, add, keep, home):
    add()
    run_sql(home, "DELETE FROM statement", "DELETE FROM file_signature")
    (home / "checkpoint.json").unlink()
    with Registry.open(home) as again:
        file = home.parent / "results.json"
        file.write_text(json.dumps(LM_EVAL))

        added = again.evidence.add(BOT, file, EVAL, actor="ada")

        assert added.evidence.is_counted
        assert again.promote(BOT, actor="ada", to=Stage.LIVE).entered[-1] is Stage.LIVE
        assert again.identities.verify().problems == ()


def test_scan_keeps_what_the_scanner_said(registry, add):
    version = add()

    added = registry.evidence.scan(BOT, python("import sys; print('looked at', sys.argv[1])"), actor="ada")

    _, body = registry.evidence.read(BOT, added.evidence.digest)
    said = json.loads(body)
    assert (added.evidence.passed, added.is_quarantined, said["exit_code"]) == (True, False, 0)
    assert said["output"] == f"looked at {version.path}\n"
    assert said["content"] == version.digest
    assert added.evidence.kind == said["kind"]


def test_two_scans_are_two_pieces_of_evidence(registry, add):
    add()

    told = [registry.evidence.scan(BOT, python("pass"), actor="ada") for _ in range(2)]

    assert [one.is_new for one in told] == [True, True]


@pytest.mark.parametrize("command", [("no-such-scanner",), ("/dev/null",), ("a\0b",)], ids=["none", "device", "nul"])
def test_scanner_that_cannot_be_started_says_nothing(registry, add, command):
    add()
    before = registry.history()

    with pytest.raises(ScannerError):
        registry.evidence.scan(BOT, command, actor="ada")
    with pytest.raises(NoScannerError):
        registry.evidence.scan(BOT, (), actor="ada")

    assert registry.history() == before


def test_scanner_that_changes_the_files_is_caught(registry, add):
    add()
    spoil = "import os, sys; p = sys.argv[1] + '/adapter_config.json'; os.chmod(p, 0o644); open(p, 'a').write(' ')"

    with pytest.raises(DamagedFilesError):
        registry.evidence.scan(BOT, python(spoil), actor="ada")

    assert registry.evidence.select(BOT) == ()


def test_scanner_sees_nothing_of_our_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LORACTL_IDENTITY_PASSPHRASE", "correct horse battery")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    seen = json.loads(run_scanner(python("import json, os; print(json.dumps(dict(os.environ)))"), tmp_path).output)

    assert set(seen) - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "LANG"}
    assert not seen["HOME"].startswith(str(tmp_path))


def test_words_of_a_scanner_are_no_shell_text(tmp_path):
    scanned = run_scanner((*python("import sys; print(sys.argv[1:])"), "$(id); true", "in {folder}!"), tmp_path)

    assert scanned.output.decode().strip() == str(["$(id); true", f"in {tmp_path}!"])


WAITS = "import time; time.sleep(600)"
STARTS_ANOTHER = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {WAITS!r}]).pid, flush=True)
time.sleep(600)
"""


def test_scanner_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    scanned = run_scanner(python(STARTS_ANOTHER), tmp_path, timeout_s=2)

    assert (scanned.exit_code, scanned.passed) == (None, False)
    status, patience = Path(f"/proc/{int(scanned.output)}/stat"), time.monotonic() + 10
    while not _has_ended(status):  # a killed process goes once it is scheduled
        assert time.monotonic() < patience
        time.sleep(0.01)


def _has_ended(status: Path) -> bool:
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_scanner_that_writes_without_end_is_cut_and_not_stopped(tmp_path):
    scanned = run_scanner(python(f"print('x' * {4 * MAX_OUTPUT_BYTES})"), tmp_path)

    assert (scanned.exit_code, len(scanned.output), scanned.is_cut) == (0, MAX_OUTPUT_BYTES, True)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)],
    ids=["exit-code", "signal"],
)
def test_scanner_that_ends_otherwise_did_not_pass(tmp_path, code, exit_code):
    scanned = run_scanner(python(code), tmp_path)

    assert (scanned.exit_code, scanned.passed) == (exit_code, False)


def test_body_of_no_evidence_is_none(registry, add):
    add()

    with registry._context.database.reading() as connection:
        assert rows.body_of(connection, "sha256:" + "0" * 64) is None
