"""``loractl bom``: a bill that the library's own schema accepts, of what the registry knows."""

from __future__ import annotations

import json

from support.registry import write_adapter

from loractl_registry.bom import check_bom


def test_bill_names_version_base_and_files(cli, lived_in):
    written = cli("bom", "support-bot@2")

    assert written.code == 0, written.err
    bill = json.loads(written.out)
    check_bom(written.out.encode())
    assert bill["bomFormat"] == "CycloneDX"
    assert "support-bot" in json.dumps(bill["metadata"]["component"])
    assert "tiny-moe" in written.out
    assert "Apache-2.0" in written.out


def test_json_is_the_bill_itself_and_a_file_takes_it(cli, lived_in, tmp_path):
    asked = cli("bom", "support-bot@2", "--json")
    kept = cli("bom", "support-bot@2", "--out", str(tmp_path / "bill.json"))

    assert asked.data["bomFormat"] == "CycloneDX"
    assert kept.out == f"Wrote {tmp_path / 'bill.json'}\n"
    check_bom((tmp_path / "bill.json").read_bytes())


def test_unknown_version_is_refused(cli, lived_in):
    assert cli("bom", "support-bot@9").code != 0


def test_bill_names_signatures_evidence_and_terms_of_data(cli, lived_in, tmp_path):
    (tmp_path / "results.json").write_text('{"acc": 0.5}')
    folder = write_adapter(tmp_path / "adapter", seed=78)
    ref = cli("add", "poet", str(folder), "--dataset", "tickets,licence=MIT,class=internal", "--json").data["ref"]
    digest = cli("evidence", "add", ref, str(tmp_path / "results.json"), "--type", "eval", "--json").data["digest"]

    written = cli("bom", ref)

    check_bom(written.out.encode())
    assert digest[7:] in written.out
    assert "signature of the files by alice, verified" in written.out
    assert "internal" in written.out
