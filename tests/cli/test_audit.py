"""The audit log on the command line: shown, exported, and verified by somebody else."""

from __future__ import annotations

import pytest
from support.cli import clean_environment, run_process
from support.tampering import CUT, run_sql


@pytest.fixture
def exported(cli, lived_in, tmp_path):
    result = cli("audit", "export", str(tmp_path / "audit.jsonl"), "--json")
    assert result.code == 0, result.err
    return result.data


def test_show_tells_the_newest_with_who_signed(cli, golden, lived_in):
    found = cli("audit", "show", "--limit", "2", "--subject", "support-bot", "--json")
    shown = cli("audit", "show", "--subject", "support-bot@2")

    assert len(found.data) == 2
    assert "adapter.promote" in shown.out
    assert "signed by" in shown.out
    assert "support-bot@1" not in shown.out
    golden("audit-show", found.out)


def test_show_since_leaves_out_what_was_before(cli, lived_in):
    assert cli("audit", "show", "--since", "2099-01-01", "--json").data == []
    assert len(cli("audit", "show", "--since", "1h", "--limit", "1000", "--json").data) > 10
    assert "no such event" in cli("audit", "show", "--subject", "nobody").err


@pytest.mark.parametrize("argv", [("--limit", "0"), ("--since", "someday"), ("--subject", "Bad Name")])
def test_show_refuses_what_it_cannot_read(cli, lived_in, argv):
    assert cli("audit", "show", *argv).code == 2


def test_break_glass_is_loud_in_the_audit(cli, lived_in):
    policy = cli("policy", "show").out + '\n[adapter.break_glass]\nby = ["anyone"]\nhours = 1\n'
    (lived_in / "policy.toml").write_text(policy)
    assert cli("promote", "poet@1", "--break-glass", "--reason", "night").code == 0

    assert "BREAK-GLASS" in cli("audit", "show").out


def test_export_is_verified_on_a_machine_without_the_home(exported, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "home"
    elsewhere.parent.mkdir()

    result = run_process(
        ["audit", "verify", "--export", exported["file"], "--key", exported["home"], "--json"],
        clean_environment(elsewhere),
    )

    assert (result.code, result.err) == (0, "")
    assert (result.data["is_intact"], result.data["statements"]) == (True, exported["statements"])
    assert not elsewhere.exists()


def test_export_verifies_with_the_public_key_alone_and_says_what_is_wrong(cli, lived_in, exported, tmp_path):
    key = str(lived_in / "keys/alice.pem.pub")
    good = cli("audit", "verify", "--export", exported["file"], "--key", key)
    edited = tmp_path / "edited.jsonl"
    edited.write_text((tmp_path / "audit.jsonl").read_text().replace('"better"', '"worse"'))
    bad = cli("audit", "verify", "--export", str(edited), "--key", key)

    assert (good.code, bad.code) == (0, 3)
    assert "intact" in good.out
    assert "was changed" in bad.out


def test_checkpoint_that_was_kept_elsewhere_is_compared(cli, lived_in, exported, tmp_path):
    assert cli("promote", "poet@1").code == 0
    kept = tmp_path / "kept.json"
    kept.write_bytes((lived_in / "checkpoint.json").read_bytes())

    result = cli("audit", "verify", "--export", exported["file"], "--key", exported["home"], "--checkpoint", str(kept))

    assert result.code == 3
    assert "checkpoint has seen" in result.out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(("--export", "{file}"), 2, "cli.usage", id="no-key"),
        pytest.param(("--key", "{home}"), 2, "cli.usage", id="no-export"),
        pytest.param(("--export", "{file}", "--key", "nobody"), 2, "registry.anchor", id="no-anchor"),
        pytest.param(("--export", "/no/file", "--key", "{home}"), 4, "cli.no_such_file", id="no-file"),
        pytest.param(("--export", "{database}", "--key", "{home}"), 3, "registry.audit_record", id="no-record"),
    ],
)
def test_verify_of_an_export_refuses_what_it_cannot_use(cli, lived_in, exported, argv, code, said):
    words = [
        word.format(file=exported["file"], home=exported["home"], database=lived_in / "registry.db") for word in argv
    ]

    result = cli("audit", "verify", *words, "--json")

    assert (result.code, result.error["code"]) == (code, said)


def test_home_that_does_not_verify_is_not_exported(cli, lived_in, tmp_path):
    run_sql(lived_in, *CUT)

    assert cli("audit", "export", str(tmp_path / "out.jsonl"), "--json").error["code"] == "trust.rollback"
    assert not (tmp_path / "out.jsonl").exists()


def test_json_of_export_and_its_verification_has_its_shape(cli, golden, exported):
    verified = cli("audit", "verify", "--export", exported["file"], "--key", exported["home"], "--json")

    assert set(exported) == {"file", "home", "root_key_id", "statements", "events", "head"}
    golden("audit-verify-export", verified.out.replace(exported["home"], "<home>"))
