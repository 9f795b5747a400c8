"""``loractl bom``: a bill that the library's own schema accepts, of what the registry knows."""

from __future__ import annotations

import json

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
