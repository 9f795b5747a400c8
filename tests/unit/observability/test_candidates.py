"""Few counters find whoever is used most, among any number of label sets."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from loractl.observability.candidates import Candidates
from loractl.observability.series import LabelSet

OFFERS = st.lists(st.integers(0, 12), max_size=200)


def labels(number):
    return LabelSet(str(number), "", "")


@settings(deadline=None)
@given(offers=OFFERS, capacity=st.integers(1, 8))
def test_who_makes_up_enough_is_found_and_nobody_is_counted_too_high(offers, capacity):
    candidates = Candidates(capacity)
    for number in offers:
        candidates.offer(labels(number))

    found = dict(candidates.ranked())
    assert len(found) <= capacity
    for number, count in Counter(offers).items():
        assert found.get(labels(number), 0) <= count
        assert labels(number) in found or count * (capacity + 1) <= len(offers)


def test_most_used_comes_first():
    candidates = Candidates(3)
    for number in (1, 2, 2, 3, 3, 3):
        candidates.offer(labels(number))

    assert candidates.ranked() == [(labels(3), 3), (labels(2), 2), (labels(1), 1)]


def test_ageing_forgets_what_hardly_counts_any_more():
    candidates = Candidates(3)
    for number in (1, 2, 2, 2, 2):
        candidates.offer(labels(number))
    candidates.age(0.25)

    assert candidates.ranked() == [(labels(2), 1.0)]
