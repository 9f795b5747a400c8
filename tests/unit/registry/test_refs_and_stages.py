"""Names, refs, and where each verb leads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry import InvalidNameError, InvalidRefError, Ref, Stage, UsageError, Verb, VersionRef, parse_ref
from loractl_registry.refs import parse_name
from loractl_registry.stages import climb, sources_of, target_of

DRAFT, CANDIDATE, APPROVED, LIVE = Stage.DRAFT, Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE
RETIRED, REJECTED, REVOKED = Stage.RETIRED, Stage.REJECTED, Stage.REVOKED


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("bot", Ref("bot", None)),
        ("bot@live", Ref("bot", None)),
        ("bot@3", Ref("bot", 3)),
        ("a@2147483647", Ref("a", 2**31 - 1)),
    ],
)
def test_ref_is_read(text, ref):
    assert parse_ref(text) == ref


@pytest.mark.parametrize("text", ["bot@", "bot@0", "bot@-1", "bot@03", "bot@x", "bot@1@2", "bot@2147483648", "bot@٣"])
def test_bad_ref_is_refused(text):
    with pytest.raises(InvalidRefError) as caught:
        parse_ref(text)

    assert caught.value.hint


@given(st.text(max_size=80))
def test_name_is_safe_as_a_path_and_in_a_shell_or_refused(text):
    try:
        name = parse_name(text)
    except InvalidNameError:
        return

    assert name == text == text.casefold()
    assert name.isascii()
    assert 1 <= len(name) <= 63
    assert not set(name) & set("/\\:@ '\"$*?[]{}()<>|&;!#~%\n\0")
    assert name not in (".", "..")


@given(st.text(max_size=40))
def test_ref_is_read_back_or_refused(text):
    try:
        ref = parse_ref(text)
    except UsageError:
        return

    assert parse_ref(str(ref)) == ref


def test_refs_sort_by_name_then_number():
    assert sorted([VersionRef("b", 1), VersionRef("a", 10), VersionRef("a", 9)]) == [
        VersionRef("a", 9),
        VersionRef("a", 10),
        VersionRef("b", 1),
    ]


@pytest.mark.parametrize(
    ("start", "to", "rungs"),
    [
        (DRAFT, None, (CANDIDATE,)),
        (DRAFT, LIVE, (CANDIDATE, APPROVED, LIVE)),
        (CANDIDATE, None, (APPROVED,)),
        (CANDIDATE, CANDIDATE, ()),
        (APPROVED, LIVE, (LIVE,)),
        (RETIRED, None, (APPROVED,)),
        (RETIRED, LIVE, (APPROVED, LIVE)),
        (RETIRED, CANDIDATE, None),
        (LIVE, None, None),
        (LIVE, LIVE, ()),
        (LIVE, APPROVED, None),
        (APPROVED, DRAFT, None),
        (DRAFT, REVOKED, None),
        (REVOKED, None, None),
        (REVOKED, REVOKED, None),
        (REJECTED, LIVE, None),
    ],
)
def test_climb_enters_the_rungs_between(start, to, rungs):
    assert climb(start, to) == rungs


@pytest.mark.parametrize("verb", Verb)
def test_revoked_leads_nowhere_and_rejected_only_to_revoked(verb):
    assert target_of(verb, REVOKED) is None
    assert target_of(verb, REJECTED) is (REVOKED if verb is Verb.REVOKE else None)
    assert all(target_of(verb, stage) is not stage for stage in sources_of(verb))


def test_servable_are_approved_and_live_alone():
    assert {stage for stage in Stage if stage.is_servable} == {APPROVED, LIVE}
