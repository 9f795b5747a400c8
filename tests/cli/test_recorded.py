"""Requests and usage on the command line, from the file that servers write."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from loractl.observability.outcomes import Outcome
from loractl.observability.record import RequestRecord, to_row
from loractl.observability.records_database import RecordsDatabase

START = datetime(2026, 1, 31, 9, tzinfo=UTC)


def record(number, **changes):
    values = {
        "id": f"req-{number}",
        "at": START + timedelta(hours=number),
        "tenant": "acme",
        "adapter": "support-bot",
        "version": 2,
        "outcome": Outcome.OK,
        "adapter_digest": f"sha256:{number:064x}",
        "busy_s": 2.0,
        "total_s": 2.5,
        "first_token_s": 0.25,
        "input_tokens": 10,
        "output_tokens": 5,
    }
    return RequestRecord(**(values | changes))


@pytest.fixture
def recorded(home):
    """A home in which a server has recorded four requests."""
    database = RecordsDatabase(home / "requests.db", timeout_s=1.0)
    database.append(
        map(
            to_row,
            [
                record(0),
                record(1, tenant="globex", version=1, outcome=Outcome.ENGINE, first_token_s=None),
                record(2, adapter="poet", version=1, busy_s=6.0),
                record(3, adapter="_unknown", version=None, outcome=Outcome.REFUSED_UNKNOWN, busy_s=0.0),
            ],
        )
    )
    database.close()
    return home


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        pytest.param(("requests",), "requests", id="requests"),
        pytest.param(("usage",), "usage", id="usage"),
        pytest.param(("usage", "--by", "tenant"), "usage-by-tenant", id="by-tenant"),
    ],
)
def test_json_has_its_shape(cli, golden, recorded, argv, name):
    result = cli(*argv, "--json")

    assert (result.code, result.err) == (0, "")
    golden(name, result.out)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param((), [3, 2, 1, 0], id="all"),
        pytest.param(("--limit", "2"), [3, 2], id="limit"),
        pytest.param(("--tenant", "globex"), [1], id="tenant"),
        pytest.param(("--adapter", "support-bot"), [1, 0], id="adapter"),
        pytest.param(("--adapter", "support-bot@2"), [0], id="version"),
        pytest.param(("--adapter", "_unknown"), [3], id="unknown-adapter"),
        pytest.param(("--outcome", "engine"), [1], id="outcome"),
        pytest.param(("--since", "2026-01-31T11:00:00Z"), [3, 2], id="since"),
        pytest.param(("--since", "2026-01-31"), [3, 2, 1, 0], id="since-the-start-of-a-day"),
        pytest.param(("--since", "1h"), [], id="since-an-hour"),
        pytest.param(("req-2",), [2], id="one"),
    ],
)
def test_requests_are_found_newest_first(cli, recorded, flags, expected):
    found = cli("requests", *flags, "--json").data

    assert [row["id"] for row in found] == [f"req-{number}" for number in expected]


def test_table_names_the_exact_version_and_hides_nothing_without_a_terminal(cli, recorded):
    lines = cli("requests").out.splitlines()

    assert lines[0].split() == ["at", "request", "tenant", "adapter", "outcome", "in", "out", "first", "token", "total"]
    assert lines[-1].split()[2:6] == ["req-0", "acme", "support-bot@2", "ok"]


def test_usage_csv_says_what_json_says(cli, recorded):
    rows = list(csv.DictReader(io.StringIO(cli("usage", "--csv").out)))

    said = cli("usage", "--json").data
    assert [{key: str(value) for key, value in row.items()} for row in said] == rows
    assert sum(row["share"] for row in said) == pytest.approx(1.0)


def test_usage_table_says_the_share(cli, recorded):
    assert cli("usage", "--since", "2026-01-31").out.splitlines()[1].split() == [
        *("poet", "1", "0", "0", "10", "5", "6.000", "s", "60.0%")
    ]


@pytest.mark.parametrize("command", ["requests", "usage"])
def test_home_in_which_nothing_was_recorded_says_so_and_is_left_alone(cli, home, command):
    said, as_json = cli(command), cli(command, "--json")

    assert (said.code, said.out) == (0, "")
    assert str(home / "requests.db") in said.err
    assert (as_json.code, as_json.data, as_json.err) == (0, [], "")
    assert not (home / "requests.db").exists()


def test_csv_of_nothing_is_its_heading(cli):
    assert cli("usage", "--csv").out.startswith("name,requests,")


def test_filter_that_finds_nothing_says_so(cli, recorded):
    assert "no such requests" in cli("requests", "--tenant", "nobody").err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(("requests", "req-9"), 4, "cli.no_such_request", id="unknown-id"),
        pytest.param(("requests", "--outcome", "fine"), 2, "cli.usage", id="outcome"),
        pytest.param(("requests", "--limit", "0"), 2, "cli.usage", id="limit"),
        pytest.param(("requests", "--adapter", "a b"), 2, "cli.usage", id="adapter"),
        pytest.param(("requests", "--since", "soon"), 2, "cli.usage", id="since"),
        pytest.param(("usage", "--by", "colour"), 2, "cli.usage", id="by"),
        pytest.param(("usage", "--csv"), 2, "cli.usage", id="csv-and-json"),
    ],
)
def test_refusals_have_their_exit_code(cli, recorded, argv, code, said):
    result = cli(*argv, "--json")

    assert (result.code, result.out, result.error["code"]) == (code, "", said)


@pytest.mark.parametrize("command", ["requests", "usage"])
def test_file_that_is_no_database_is_refused_and_named(cli, recorded, command):
    (recorded / "requests.db").write_bytes(b"no database" * 1000)

    result = cli(command, "--json")

    assert (result.code, result.error["code"]) == (1, "observability.records_unreadable")
    assert "requests.db" in result.error["hint"]


def test_what_a_client_wrote_cannot_act_on_the_terminal(cli, home):
    database = RecordsDatabase(home / "requests.db", timeout_s=1.0)
    database.append([to_row(record(0, tenant="\x1b[2J"))])
    database.close()

    assert "\x1b" not in cli("requests").out + cli("usage", "--by", "tenant").out
