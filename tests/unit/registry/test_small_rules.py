"""Actors, reasons, times and the choice of a base."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import loractl_registry
from loractl_registry import Base
from loractl_registry.actors import ActorError, ReasonError, parse_actor, parse_reason, require_reason
from loractl_registry.binding import choose_base
from loractl_registry.clock import from_text, to_text, utc_now
from loractl_registry.progress import SILENT
from loractl_registry.refusals import BaseNotFoundError

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)


def base(name, source="/bases/x", path="/bases/x"):
    return Base(name, f"sha256:{name}", Path(path), source, None, 1, 1, NOW, "ada", {})


def test_every_exported_name_is_there_and_no_other():
    for name in loractl_registry.__all__:
        assert getattr(loractl_registry, name) is not None

    with pytest.raises(AttributeError, match="no attribute"):
        _ = loractl_registry.absent


@pytest.mark.parametrize("text", ["", "  ", "a" * 201, "ada\n", "a\x00b", "\x1b[31mada"])
def test_actor_that_is_no_printable_line_is_refused(text):
    if text == "ada\n":
        assert parse_actor(text) == "ada"
    else:
        with pytest.raises(ActorError):
            parse_actor(text)


@pytest.mark.parametrize("text", ["x" * 2001, "a\x1bb", "a\x00b"])
def test_unprintable_or_endless_reason_is_refused(text):
    with pytest.raises(ReasonError):
        parse_reason(text)


def test_reason_may_have_lines_and_blanks_are_none():
    assert parse_reason(" two\nlines ") == "two\nlines"
    assert parse_reason("  ") is None
    assert parse_reason(None) is None


def test_missing_reason_is_refused_where_one_is_needed():
    with pytest.raises(ReasonError, match="cannot revoke bot@1 without a reason"):
        require_reason("revoke bot@1", " ")


def test_time_is_written_in_utc_and_read_back():
    moment = datetime(2026, 1, 31, 10, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))

    assert to_text(moment) == "2026-01-31T09:00:00.000005Z"
    assert from_text(to_text(moment)) == moment
    assert utc_now().tzinfo is UTC


def test_naive_time_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        to_text(datetime(2026, 1, 31, 9, 0))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("said", "declared", "chosen"),
    [
        pytest.param("one", "two", "one", id="said-wins"),
        pytest.param(None, "two", "two", id="declared-name"),
        pytest.param(None, "/bases/one", "one", id="declared-path"),
        pytest.param(None, "hf:o/two@abc", "two", id="declared-source"),
        pytest.param(None, "o/two", "two", id="declared-repository"),
        pytest.param(None, "o/other", None, id="declared-and-unknown"),
        pytest.param(None, None, None, id="nobody-said"),
    ],
)
def test_base_is_said_or_declared(said, declared, chosen):
    admitted = [base("one", "/bases/one", "/bases/one"), base("two", "hf:o/two@abc", "/cache/two")]

    found = choose_base(admitted, said, declared)

    assert (found and found.name) == chosen


def test_only_admitted_base_is_chosen_where_nobody_said():
    assert choose_base([base("one")], None, "o/other") == base("one")


def test_base_that_two_names_share_is_not_guessed():
    assert choose_base([base("one"), base("two")], None, "/bases/x") is None


def test_base_that_was_said_and_is_not_there_is_refused():
    with pytest.raises(BaseNotFoundError):
        choose_base([base("one")], "two", None)


def test_silent_progress_takes_everything():
    SILENT.start("hashing", 1)
    SILENT.advance(1)
    SILENT.done()
