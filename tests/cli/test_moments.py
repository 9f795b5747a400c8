"""Moments as they are typed."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from loractl.cli.moments import parse_expiry, parse_since, parse_time

DAY = datetime(2026, 1, 31, tzinfo=UTC)
END = DAY + timedelta(days=1, microseconds=-1)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_time, "2026-01-31", END),
        (parse_since, "2026-01-31", DAY),
        (parse_expiry, " 2026-01-31 ", END),
        (parse_time, "2026-01-31T09:00:00", DAY.replace(hour=9)),
        (parse_since, "2026-01-31T09:00:00Z", DAY.replace(hour=9)),
        (parse_expiry, "2026-01-31T09:00:00+02:00", DAY.replace(hour=7)),
    ],
)
def test_moment_is_read(parse, text, expected):
    assert parse(text) == expected
    assert parse(text).utcoffset() == timedelta()


@pytest.mark.parametrize(
    ("parse", "text", "span"),
    [
        (parse_time, "2h", timedelta(hours=-2)),
        (parse_since, "3 d ago", timedelta(days=-3)),
        (parse_since, "1w", timedelta(weeks=-1)),
        (parse_expiry, "90d", timedelta(days=90)),
        (parse_expiry, "30s", timedelta(seconds=30)),
    ],
)
def test_span_counts_from_now(parse, text, span):
    before = datetime.now(UTC)

    moment = parse(text)

    assert before <= moment - span <= datetime.now(UTC)


@pytest.mark.parametrize("parse", [parse_time, parse_since, parse_expiry])
@pytest.mark.parametrize("text", ["", "soon", "0d", "-1d", "999999w", "2026-13-01", "0001-01-01T00:00:00+14:00", "ago"])
def test_what_is_no_moment_is_refused(parse, text):
    with pytest.raises(typer.BadParameter):
        parse(text)


def test_end_in_the_past_of_a_span_is_refused():
    with pytest.raises(typer.BadParameter):
        parse_expiry("90d ago")
