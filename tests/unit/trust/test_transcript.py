"""The transcript of a chain, and taking a chain up from rows that were verified before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry.trust import Transcript, reopen_chain, verify_chain
from loractl_registry.trust.errors import ChainError, FromTheFutureError, UnknownSignerError

TEXT = st.text(alphabet="a1 \n@é", max_size=4)
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT, st.binary(max_size=4)), max_size=3)


@dataclass(frozen=True)
class Row:
    digest: str
    kind: str
    subject: str
    envelope: bytes


def transcript_of(rows):
    transcript = Transcript()
    for row in rows:
        transcript.add(*row)
    return transcript.hexdigest()


def rows_of(chain, envelopes):
    return [Row(one.digest, one.kind, one.subject, data) for one, data in zip(chain.statements, envelopes, strict=True)]


def reopened(home, rows=None):
    held = rows_of(home.chain, home.envelopes) if rows is None else rows
    return reopen_chain(held, home.chain.transcript, latest=home.chain.latest, now=home.now)


@given(ROWS, ROWS)
def test_equal_digests_mean_equal_rows(some, others):
    assert (transcript_of(some) == transcript_of(others)) == (some == others)


@given(ROWS)
def test_copy_goes_on_by_itself(rows):
    transcript = Transcript()
    before = transcript.hexdigest()

    copied = transcript.copy()
    for row in rows:
        copied.add(*row)

    assert (transcript.hexdigest(), copied.hexdigest()) == (before, transcript_of(rows))


def test_transcript_of_a_chain_is_over_what_a_store_must_keep(busy):
    rows = rows_of(busy.chain, busy.envelopes)

    assert busy.chain.transcript.hexdigest() == transcript_of(
        (row.digest, row.kind, row.subject, row.envelope) for row in rows
    )


def test_verifying_in_steps_gives_the_transcript_of_verifying_at_once(busy):
    first = verify_chain(busy.envelopes[:3], now=busy.now)
    then = verify_chain(busy.envelopes[3:], now=busy.now, after=first)

    assert then.transcript.hexdigest() == busy.chain.transcript.hexdigest()
    assert len(first.statements) == 3


def test_reopened_chain_is_gone_on_from_by_the_same_rules(busy):
    again = reopened(busy)

    assert (again.trust, again.head, again.reopened) == (busy.chain.trust, busy.chain.head, len(busy.envelopes))
    with pytest.raises(ChainError, match="stands where sequence"):
        verify_chain([busy.envelopes[-1]], now=busy.now, after=again)
    assert verify_chain([], now=busy.now, after=again).reopened == len(busy.envelopes)


def test_reopened_chain_is_not_believed_before_its_time(busy):
    with pytest.raises(FromTheFutureError):
        reopen_chain(
            rows_of(busy.chain, busy.envelopes),
            busy.chain.transcript,
            latest=busy.chain.latest,
            now=busy.chain.latest - timedelta(minutes=6),
        )


def test_nothing_is_no_chain(busy):
    with pytest.raises(ChainError):
        reopened(busy, [])


def test_stranger_signs_nothing_after_a_reopened_chain(home):
    stranger = type(home)()

    with pytest.raises(UnknownSignerError):
        verify_chain(stranger.envelopes, now=home.now, after=reopened(home))
