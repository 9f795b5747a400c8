"""Tenants and API keys on the command line."""

from __future__ import annotations

import json
import stat

import pytest
from support.tampering import run_sql

from loractl.cli.limits import limit_words, parse_limit
from loractl_registry import Registry
from loractl_registry.tenancy import KeyRing, parse_bearer

ADD = ("tenant", "add", "acme", "--adapter", "support-*", "--data-class", "internal", "--weight", "2")
LIMITS = ("--limit", "tokens-per-minute=100000", "--limit", "poet:concurrent=2")


@pytest.fixture
def tenant(cli, lived_in):
    """The home with a tenant that has a key; returns the key."""
    assert cli(*ADD, *LIMITS).code == 0
    return cli("key", "create", "acme", "--expires", "9999-12-31").out.strip()


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        pytest.param(("tenant", "list"), "tenant-list", id="list"),
        pytest.param(("tenant", "show", "acme"), "tenant-show", id="show"),
        pytest.param(("tenant", "add", "other"), "tenant-add", id="add"),
        pytest.param((*ADD, *LIMITS), "tenant-add-again", id="add-again"),
        pytest.param(
            ("tenant", "set", "acme", "--limit", "tokens-per-minute=none", "--weight", "3"), "tenant-set", id="set"
        ),
        pytest.param(("tenant", "remove", "acme", "--reason", "left", "--yes"), "tenant-remove", id="remove"),
        pytest.param(("key", "create", "acme"), "key-create", id="key-create"),
        pytest.param(("key", "list", "--tenant", "acme"), "key-list", id="key-list"),
        pytest.param(("key", "revoke", "{prefix}", "--reason", "leaked", "--yes"), "key-revoke", id="key-revoke"),
    ],
)
def test_json_has_its_shape(cli, golden, tenant, argv, name):
    result = cli(*(word.format(prefix=tenant.split("_")[1]) for word in argv), "--json")

    assert (result.code, result.err) == (0, "")
    golden(name, result.out)


def test_json_of_a_home_without_tenants_is_empty(cli):
    assert cli("tenant", "list", "--json").data == cli("key", "list", "--json").data == []


def test_created_key_is_all_of_stdout_and_works_and_is_never_shown_again(cli, tenant, home):
    with Registry.open(home) as registry:
        held, pepper = registry.tenancy.snapshot(), registry.tenancy.pepper()
    found = KeyRing(held.keys, pepper).find(parse_bearer([f"Bearer {tenant}".encode()]), at=held.keys[0].created_at)
    told = [
        cli(*argv).out + cli(*argv, "--json").out + cli(*argv).err
        for argv in (("key", "list"), ("tenant", "show", "acme"), ("tenant", "list"), ("history",))
    ]

    assert found.tenant == "acme"
    assert tenant.rpartition("_")[2] not in "".join(told)
    assert all(tenant.split("_")[1] in text for text in told[:2])


def test_pepper_is_private(tenant, home):
    assert stat.S_IMODE((home / "keys/api-pepper").stat().st_mode) == 0o600


def test_set_replaces_patterns_and_changes_limits_one_by_one(cli, tenant):
    changed = cli("tenant", "set", "acme", "--adapter", "poet", "--limit", "max-output=7", "--json").data

    assert changed["adapters"] == ["poet"]
    assert changed["limits"] == {"tokens_per_minute": 100000, "max_output": 7}
    assert changed["adapter_limits"] == {"poet": {"concurrent": 2}}
    assert changed["data_classes"] == ["internal"]
    assert "was so already" in cli("tenant", "set", "acme", "--adapter", "poet").out


def test_pause_keeps_the_tenant_and_its_keys(cli, tenant):
    paused = cli("tenant", "set", "acme", "--no-adapters", "--no-data-classes", "--json").data

    assert (paused["adapters"], paused["data_classes"]) == ([], [])
    assert paused["was"] == {"adapters": ["support-*"], "data_classes": ["internal"]}
    assert cli("key", "list", "--json").data[0]["state"] == "active"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(("tenant", "show", "acmee"), 4, "tenancy.tenant_not_found", id="unknown"),
        pytest.param(("tenant", "show", "Bad Name"), 2, "registry.invalid_name", id="bad-name"),
        pytest.param(("tenant", "add", "acme"), 5, "tenancy.tenant_exists", id="exists"),
        pytest.param(("tenant", "add", "b", "--adapter", "../x"), 2, "tenancy.invalid_tenant", id="pattern"),
        pytest.param(("tenant", "add", "b", "--weight", "nan"), 2, "tenancy.invalid_tenant", id="weight"),
        pytest.param(("tenant", "add", "b", "--weight", "heavy"), 2, "cli.usage", id="no-number"),
        pytest.param(("tenant", "add", "b", "--limit", "concurrent=0"), 2, "tenancy.invalid_tenant", id="zero"),
        pytest.param(("tenant", "add", "b", "--limit", "speed=9"), 2, "cli.usage", id="no-such-limit"),
        pytest.param(("tenant", "add", "b", "--limit", "concurrent=-1"), 2, "cli.usage", id="negative"),
        pytest.param(("tenant", "add", "b", "--limit", "*:concurrent=1"), 2, "tenancy.invalid_tenant", id="no-adapter"),
        pytest.param(
            ("tenant", "add", "b", "--limit", "concurrent=1", "--limit", "concurrent=2"), 2, "cli.usage", id="twice"
        ),
        pytest.param(("tenant", "set", "acme"), 2, "cli.usage", id="nothing"),
        pytest.param(("tenant", "set", "acme", "--adapter", "x", "--no-adapters"), 2, "cli.usage", id="both"),
        pytest.param(("tenant", "set", "nobody", "--weight", "2"), 4, "tenancy.tenant_not_found", id="set-unknown"),
        pytest.param(("tenant", "remove", "acme", "--reason", "x"), 2, "cli.confirmation_needed", id="no-yes"),
        pytest.param(("tenant", "remove", "acme", "--yes"), 2, "cli.confirmation_needed", id="no-reason"),
        pytest.param(("key", "create", "nobody"), 4, "tenancy.tenant_not_found", id="key-of-nobody"),
        pytest.param(("key", "create", "acme", "--expires", "2020-01-01"), 2, "tenancy.key_expiry", id="expired"),
        pytest.param(("key", "create", "acme", "--expires", "999999w"), 2, "cli.usage", id="endless"),
        pytest.param(("key", "create", "acme", "--expires", "soon"), 2, "cli.usage", id="no-date"),
        pytest.param(("key", "list", "--tenant", "nobody"), 4, "tenancy.tenant_not_found", id="keys-of-nobody"),
        pytest.param(
            ("key", "revoke", "0123456789ab", "--reason", "x", "--yes"), 4, "tenancy.key_not_found", id="no-key"
        ),
        pytest.param(("key", "revoke", "zz", "--reason", "x", "--yes"), 2, "tenancy.key_prefix", id="no-prefix"),
    ],
)
def test_refusals_have_their_exit_code_and_change_nothing(cli, tenant, argv, code, said):
    before = cli("history", "--json").data

    result = cli(*argv, "--json")

    assert (result.code, result.out) == (code, "")
    assert result.error["code"] == said
    assert result.error["hint"]
    assert cli("history", "--json").data == before


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_whole_key_where_a_prefix_belongs_is_not_repeated(cli, tenant, flags):
    result = cli("key", "revoke", tenant, "--reason", "x", "--yes", *flags)

    assert result.code == 2
    assert tenant.rpartition("_")[2] not in result.out + result.err


def test_tenant_edited_by_hand_is_shown_as_refused_and_nothing_is_built_on_it(cli, tenant, home):
    run_sql(home, "UPDATE tenant SET adapters = '[\"*\"]'")

    listed, shown = cli("tenant", "list"), cli("tenant", "show", "acme", "--json").data
    created = cli("key", "create", "acme", "--json")
    verified = cli("audit", "verify")

    assert "refused" in listed.out
    assert "warning: tenant acme is refused" in listed.err
    assert "differ from the audit log" in shown["objection"]
    assert (created.code, created.error["code"], created.out) == (3, "tenancy.tenant_refused", "")
    assert (verified.code, "tenant acme: " in verified.out) == (3, True)


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        pytest.param(lambda path: path.unlink(), 4, "tenancy.pepper_not_found", id="lost"),
        pytest.param(lambda path: path.chmod(0o644), 3, "tenancy.pepper_permissions", id="open"),
        pytest.param(lambda path: path.write_bytes(b"short"), 3, "tenancy.pepper_damaged", id="damaged"),
    ],
)
def test_unusable_pepper_is_told_by_every_command_that_needs_it(cli, tenant, home, harm, code, said):
    harm(home / "keys/api-pepper")

    created, listed, doctor = cli("key", "create", "acme", "--json"), cli("tenant", "list"), cli("doctor", "--json")

    assert (created.code, created.error["code"]) == (code, said)
    assert listed.code == 0
    assert "refused" in listed.out
    (check,) = [check for check in doctor.data["checks"] if check["name"] == "pepper"]
    assert (doctor.code, check["health"]) == (1, "fail")
    assert check["way_out"]


def test_doctor_says_whether_there_are_tenants(cli, lived_in):
    def checks():
        return {check["name"]: check for check in cli("doctor", "--json").data["checks"]}

    before = checks()
    cli("tenant", "add", "acme", "--adapter", "*")
    cli("key", "create", "acme")
    after = checks()

    assert before["tenants"]["found"].startswith("none")
    assert "pepper" not in before
    assert (after["tenants"]["health"], after["tenants"]["found"]) == ("ok", "1 tenant, 1 key in use")
    assert after["pepper"]["health"] == "ok"


def test_doctor_fails_where_a_tenant_is_refused(cli, tenant, home):
    run_sql(home, "UPDATE tenant SET weight = 9")

    doctor = cli("doctor", "--json")

    (check,) = [check for check in doctor.data["checks"] if check["name"] == "tenants"]
    assert (doctor.code, check["health"]) == (1, "fail")
    assert "acme" in check["found"]


def test_doctor_without_tenants_makes_no_pepper(cli, lived_in):
    cli("doctor")

    assert not (lived_in / "keys/api-pepper").exists()


def test_limits_are_shown_as_they_are_typed():
    words = limit_words({"tokens_per_day": 9}, {"poet": {"concurrent": 2}})

    assert words == ["tokens-per-day=9", "poet:concurrent=2"]
    assert [parse_limit(word) for word in words] == [("", "tokens_per_day", 9), ("poet", "concurrent", 2)]


def test_list_and_show_are_what_they_were(cli, lived_in):
    before = cli("list", "--json").out, cli("show", "support-bot", "--json").out

    cli("tenant", "add", "acme", "--adapter", "*")

    assert (cli("list", "--json").out, cli("show", "support-bot", "--json").out) == before
    assert json.loads(before[0])
