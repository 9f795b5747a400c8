"""Evidence and file signatures on the command line."""

from __future__ import annotations

import json
import sys

import pytest
from support.evidence import LM_EVAL, effect_proof
from support.registry import write_adapter
from support.tampering import run_sql

from loractl_registry import Ref, Registry

CLEAN = (sys.executable, "-c", "print('clean')")
DIRTY = (sys.executable, "-c", "print('found a pickle'); raise SystemExit(1)")


@pytest.fixture
def results(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(LM_EVAL))
    return str(file)


def test_json_of_evidence_has_its_shape(cli, golden, lived_in, results):
    golden("evidence-add", cli("evidence", "add", "poet@1", results, "--type", "eval", "--json").out)
    golden("evidence-add-again", cli("evidence", "add", "poet@1", results, "--type", "eval", "--json").out)
    listed = cli("evidence", "list", "poet@1", "--json")
    golden("evidence-list", listed.out)
    digest = listed.data[0]["digest"]
    golden("evidence-show", cli("evidence", "show", "poet@1", digest[7:15], "--json").out)


def test_evidence_is_told_in_words(cli, lived_in, results):
    empty = cli("evidence", "list", "poet@1")
    kept = cli("evidence", "add", "poet@1", results, "--type", "eval")
    again = cli("evidence", "add", "poet@1", results, "--type", "eval")
    listed, shown = cli("evidence", "list", "poet@1"), cli("show", "poet@1")

    assert empty.out == "no evidence\n"
    assert kept.out.startswith("Kept eval of poet@1")
    assert "mmlu/acc  0.63" in kept.out
    assert again.out.startswith("Already there: eval of poet@1")
    assert "lm-eval" in listed.out
    assert "lm-eval" in shown.out
    assert "alice" in shown.out.partition("signatures of the files")[2]


def test_evidence_comes_out_as_it_went_in(cli, lived_in, results, tmp_path):
    digest = cli("evidence", "add", "poet@1", results, "--type", "eval", "--json").data["digest"]

    written = cli("evidence", "show", "poet@1", digest, "--out", str(tmp_path / "copy.json"))
    shown = cli("evidence", "show", "poet@1", digest)

    assert written.code == shown.code == 0
    assert json.loads((tmp_path / "copy.json").read_text()) == LM_EVAL
    assert "exact_match" in shown.out


def test_scanner_behind_two_dashes_passes_or_quarantines(cli, lived_in):
    clean = cli("evidence", "scan", "poet@1", "--", *CLEAN)
    dirty = cli("evidence", "scan", "poet@1", "--json", "--", *DIRTY)
    promoted = cli("promote", "poet@1", "--json")
    lifted = cli("evidence", "scan", "poet@1", "--json", "--", *CLEAN)
    after = cli("promote", "poet@1", "--json")

    assert (clean.code, dirty.code, lifted.code, after.code) == (0, 3, 0, 0)
    assert (dirty.data["passed"], dirty.data["is_quarantined"], dirty.data["is_served"]) == (False, True, False)
    assert "poet@1 is in quarantine" in dirty.error["message"]
    assert (promoted.code, promoted.error["code"]) == (3, "registry.quarantined")
    assert "loractl evidence list poet@1" in promoted.error["hint"]


def test_scan_that_fails_says_that_the_version_is_still_served(cli, lived_in):
    failed = cli("evidence", "scan", "support-bot", "--", *DIRTY)

    assert failed.code == 3
    assert "it is live and still served" in failed.err
    assert "loractl retire support-bot@2 --reason TEXT" in failed.err
    assert cli("list", "--stage", "live", "--json").data


def test_scanner_comes_from_the_setting(cli, lived_in, monkeypatch):
    none = cli("evidence", "scan", "poet@1", "--json")
    monkeypatch.setenv("LORACTL_SCAN_COMMAND", f"{sys.executable} -c 'print(1)'")
    from_variable = cli("evidence", "scan", "poet@1", "--json")
    monkeypatch.delenv("LORACTL_SCAN_COMMAND")
    (lived_in / "config.toml").write_text(f"scan_command = {json.dumps(list(DIRTY))}\n")
    from_file = cli("evidence", "scan", "poet@1", "--json")
    shown = cli("config", "show")

    assert (none.code, none.error["code"]) == (2, "registry.no_scanner")
    assert (from_variable.code, from_file.code) == (0, 3)
    assert "found a pickle" in shown.out


@pytest.mark.parametrize("value", ["''", '"\'"', '[""]', "[]", "3", '[1, "x"]'])
def test_scan_command_that_is_none_is_refused(cli, lived_in, value):
    (lived_in / "config.toml").write_text(f"scan_command = {value}\n")

    refused = cli("evidence", "scan", "poet@1", "--json")

    assert refused.code == 2
    assert "scan_command" in refused.error["message"]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(("add", "poet@1", "/no/file", "--type", "eval"), 4, "cli.no_such_file", id="no-file"),
        pytest.param(("add", "poet@1", "{results}", "--type", "rumour"), 2, "cli.usage", id="no-type"),
        pytest.param(("add", "poet@1", "{results}", "--type", "effect"), 2, "cli.usage", id="effect-is-for-prove"),
        pytest.param(("add", "poet@1", "{results}", "--type", "scan"), 3, "registry.evidence", id="no-verdict"),
        pytest.param(("add", "poet@9", "{results}", "--type", "eval"), 4, "registry", id="no-version"),
        pytest.param(("show", "poet@1", "abcd"), 4, "registry.evidence_not_found", id="no-such-evidence"),
        pytest.param(("scan", "poet@1", "--", "no-such-scanner"), 1, "registry.scanner", id="no-scanner"),
        pytest.param(("scan", "poet@1", "modelscan"), 2, "cli.usage", id="command-without-dashes"),
    ],
)
def test_refusals_say_what_and_the_way_out(cli, lived_in, results, argv, code, said):
    words = [word.format(results=results) for word in argv]
    at = words.index("--") if "--" in words else len(words)

    result = cli("evidence", *words[:at], "--json", *words[at:])

    assert (result.code, result.out) == (code, "")
    assert result.error["code"].startswith(said)
    assert result.error["hint"]


def test_proof_shows_up_as_evidence(cli, lived_in):
    with Registry.open(lived_in, identity="alice") as registry:
        version = registry.version(Ref("support-bot", 2))
        registry.evidence.add_effect(version.ref, effect_proof(version), actor="alice")

    assert "engine-and-reference" in cli("evidence", "list", "support-bot@2").out


def test_add_keeps_the_terms_of_data_sets(cli, lived_in, tmp_path):
    folder = write_adapter(tmp_path / "adapter", seed=77)
    told = ("--dataset", "tickets,licence=MIT,class=internal", "--dataset", "web", "--trained-on", "books")

    added = cli("add", "poet", str(folder), *told, "--json")
    refused = cli("add", "poet", str(folder), "--dataset", "x,colour=red", "--json")

    assert added.data["provenance"]["datasets"] == ["tickets", "web", "books"]
    assert added.data["provenance"]["dataset_terms"] == [
        {"name": "tickets", "licence": "MIT", "data_class": "internal"}
    ]
    assert "tickets (MIT, internal), web" in cli("show", added.data["ref"]).out
    assert (refused.code, refused.error["code"]) == (2, "registry.provenance")


def test_verify_names_a_signature_that_is_gone(cli, lived_in):
    run_sql(lived_in, "DELETE FROM file_signature")

    verified, shown = cli("verify", "poet@1"), cli("show", "poet@1")

    assert verified.code == 3
    assert "signature sha256:" in verified.out
    assert "is gone" in shown.out
