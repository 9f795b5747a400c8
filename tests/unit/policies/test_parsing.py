"""From bytes to rules: what is refused, in which line, and the way out."""

import hashlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.policies.policy_facts import problems_of

from loractl_registry.errors import UsageError
from loractl_registry.policies import PRESETS, PolicyFileError, parse_policy, preset_text

WHO = 'by = ["anyone"]'
CANDIDATE = f"[adapter.candidate]\n{WHO}\n"
TWO_RUNGS = f"{CANDIDATE}%s\n[adapter.approved]\n{WHO}\n%s\n"


def only_problem(text):
    (problem,) = problems_of(text)
    return problem


CONTRADICTIONS = [
    pytest.param(f"[adapter.approved]\n{WHO}", 1, "candidate, which comes first, has no rule", id="no-candidate"),
    pytest.param(
        f"{CANDIDATE}\n[adapter.live]\n{WHO}", 4, "approved, which comes first, has no rule", id="no-approved"
    ),
    pytest.param(
        f'{CANDIDATE}[adapter.candidate.approvals]\nfour_eyes = false\ncount = 3\nby = ["a", "b"]',
        5,
        "adapter.candidate.approvals.count is 3 and only 2 people are named",
        id="more-approvals-than-people",
    ),
    pytest.param(
        f'{CANDIDATE}[adapter.candidate.signatures]\nby = ["a"]\ncount = 2',
        5,
        "adapter.candidate.signatures.count is 2 and only 1 person is named",
        id="more-signatures-than-people",
    ),
    pytest.param(
        f'{CANDIDATE}\n[adapter.candidate.approvals]\nby = ["a"]\ncount = 1\nfour_eyes = true',
        7,
        "four eyes cannot be had in adapter.candidate.approvals: 1 person is named for a count of 1",
        id="four-eyes-of-one",
    ),
    pytest.param(
        f'{CANDIDATE}\n[adapter.candidate.approvals]\nby = ["a", "b"]\ncount = 2',
        4,
        "2 people are named for a count of 2",
        id="four-eyes-of-all-by-default",
    ),
    pytest.param(
        f"{CANDIDATE}expires_days = 30\n[adapter.candidate.approvals]\n{WHO}\ncount = 1\nmax_age_days = 31",
        7,
        "max_age_days is 31 and the rung expires after 30 days",
        id="approval-outlives-the-rung",
    ),
    pytest.param(
        f"{CANDIDATE}[[adapter.candidate.evidence]]\ntype = 'eval'\n"
        "[adapter.candidate.evidence.metrics]\nx.min = 1\nacc.max = 0.1\nacc.min = 0.2",
        8,
        "evidence[0].metrics.acc asks for at least 0.2 and at most 0.1",
        id="min-above-max",
    ),
    pytest.param(
        f'{CANDIDATE}[[adapter.candidate.evidence]]\ntype = "eval"\nmetrics = {{ acc = {{}} }}',
        5,
        "metrics.acc has no bound",
        id="no-bound",
    ),
    pytest.param(
        '[adapter.data.tenants]\npublic = ["*"]\ninternl = ["acme"]',
        3,
        "adapter.data.tenants.internl is about a data class that is not defined",
        id="tenants-of-no-class",
    ),
    pytest.param(
        f'[adapter.data]\nclasses = ["open", "closed"]\n{CANDIDATE}max_data_class = "public"',
        5,
        "max_data_class is 'public', a data class that is not defined",
        id="own-classes-replace-the-default",
    ),
    pytest.param(
        f'{CANDIDATE}max_data_class = "secret"', 3, "max_data_class is 'secret'", id="class-without-data-rules"
    ),
    pytest.param(
        TWO_RUNGS % ("max_rank = 16", "max_rank = 64"),
        6,
        "adapter.approved.max_rank is 64 and adapter.candidate.max_rank is 16, which holds here too",
        id="looser-rank-above",
    ),
    pytest.param(
        TWO_RUNGS % ("expires_days = 9", "expires_days = 10"), 6, "adapter.approved.expires_days is 10", id="looser-end"
    ),
    pytest.param(
        TWO_RUNGS % ('max_data_class = "public"', 'max_data_class = "internal"'),
        6,
        "adapter.approved.max_data_class is 'internal'",
        id="looser-class-above",
    ),
    pytest.param(
        TWO_RUNGS % ('data_licences = ["MIT"]', 'data_licences = ["cc0-1.0"]'),
        6,
        "nothing in common with adapter.candidate.data_licences",
        id="disjoint-licences",
    ),
    pytest.param(
        f'[base]\n{WHO}\nallow = ["oss"]\n{CANDIDATE}bases = ["qwen"]',
        6,
        "adapter.candidate.bases has nothing in common with base.allow",
        id="base-that-is-never-admitted",
    ),
    pytest.param(
        f'[base]\n{WHO}\nlicences = ["mit"]\n{CANDIDATE}base_licences = ["gemma"]',
        6,
        "nothing in common with base.licences",
        id="licence-that-is-never-admitted",
    ),
]


@pytest.mark.parametrize(("text", "line", "said"), CONTRADICTIONS)
def test_contradiction_is_refused_with_its_line(text, line, said):
    problem = only_problem(text)

    assert (problem.line, said in problem.text) == (line, True), problem
    assert problem.way_out


@pytest.mark.parametrize(("text", "line", "said"), CONTRADICTIONS)
def test_contradiction_is_found_in_the_same_line_of_a_file_from_windows(text, line, said):
    assert only_problem("# first\n" + text.replace("\n", "\r\n")).line == line + 1


@pytest.mark.parametrize(
    "text",
    [
        TWO_RUNGS % ("max_rank = 16", "max_rank = 16"),
        TWO_RUNGS % ('data_licences = ["MIT", "x"]', 'data_licences = ["mit"]'),
        f'[base]\n{WHO}\nallow = ["sha256:1"]\n{CANDIDATE}bases = ["qwen"]',
        f'{CANDIDATE}[adapter.candidate.approvals]\nby = ["a", "role:reviewer"]\ncount = 3',
        f'{CANDIDATE}[adapter.candidate.approvals]\nby = ["a"]\ncount = 1\nfour_eyes = false',
        f"{CANDIDATE}expires_days = 30\n[adapter.candidate.approvals]\n{WHO}\ncount = 1\nmax_age_days = 30",
        '[adapter.data.tenants]\nconfidential = ["*"]',
    ],
)
def test_what_only_looks_like_a_contradiction_is_taken(text):
    assert not problems_of(text)


@pytest.mark.parametrize(
    ("text", "line", "said", "way_out"),
    [
        ("\n[adapter.candidat]\nby = []", 2, "unknown key adapter.candidat", "did you mean 'candidate'?"),
        (f"{CANDIDATE}aprovals = 1", 3, "unknown key adapter.candidate.aprovals", "did you mean 'approvals'?"),
        ("zzz = 1", 1, "unknown key zzz", "known here: base, adapter"),
        (f"{CANDIDATE}max_rank = '8'", 3, "adapter.candidate.max_rank is '8'", "make it a valid integer"),
        (f"{CANDIDATE}max_rank = 0", 3, "max_rank is 0", "make it greater than or equal to 1"),
        (f"{CANDIDATE}max_rank = true", 3, "max_rank is True", "make it a valid integer"),
        ("[base]\nby = 'anyone'", 2, "base.by is 'anyone'", 'make it a list, such as ["anyone"]'),
        ("[base]\nby = []", 2, "base.by is []", "make it a list of at least one, or leave the key out"),
        ("[base]\nby = [\n'x',\n'role:revewer']", 4, "base.by[1] is 'role:revewer'", "make it role:reviewer"),
        ("[base]\nby = ['role:king']", 2, "'role:king'", "make it role:contributor or role:reviewer or role:operator"),
        ("[base]\nby = ['anyone', 'x']", 2, "base.by is ['anyone', 'x']", "make it either"),
        ("[base]\nby = ['x', 'x']", 2, "base.by is ['x', 'x']", "make it a list that names nothing twice"),
        ("[base]\nby = ['']", 2, "base.by[0] is ''", "make it 1 to 200 characters long"),
        ("[base]\nby = [' x']", 2, "base.by[0] is ' x'", "make it a printable text without blanks around it"),
        ("\n[base]\n", 2, "base has no 'by'", "write by = ..."),
        ("base = 1", 1, "base is 1", "make it a table: [base]"),
        (
            f"{CANDIDATE}[[adapter.candidate.evidence]]\ntype = 'evl'",
            4,
            "adapter.candidate.evidence[0].type is 'evl'",
            "make it 'eval', 'card', 'scan', 'review' or 'effect'",
        ),
        (
            f"{CANDIDATE}[[adapter.candidate.evidence]]\ntype = 'eval'\nmetrics.acc.mni = 1",
            5,
            "unknown key adapter.candidate.evidence[0].metrics.acc.mni",
            "did you mean 'min'?",
        ),
        (
            f"{CANDIDATE}[[adapter.candidate.evidence]]\ntype = 'eval'\nmetrics.acc.min = nan",
            5,
            "metrics.acc.min is nan",
            "make it a finite number",
        ),
        (f"[adapter.break_glass]\n{WHO}\nhours = 169", 3, "hours is 169", "make it less than or equal to 168"),
    ],
)
def test_malformed_rule_is_refused_with_its_line_and_the_way_out(text, line, said, way_out):
    problem = only_problem(text)

    assert problem.line == line
    assert said in problem.text
    assert problem.way_out.startswith(way_out)


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        pytest.param(b"# " + b"x" * 2**16, None, "it is larger than 65536 bytes", id="huge"),
        pytest.param(b"\xef\xbb\xbf[base]", 1, "byte order mark", id="bom"),
        pytest.param(b"# a\r\n# b \xff", 2, "byte 0xff is not UTF-8", id="latin-1"),
        pytest.param("[base]\n".encode("utf-16"), 1, "byte 0xff is not UTF-8", id="utf-16"),
        pytest.param(b"# a\n\nx = 'a\x00'", 3, "it is not TOML: found invalid character", id="nul"),
        pytest.param(b"# a\n# \x00\n", 2, "it is not TOML", id="nul-in-comment"),
        pytest.param(b"# a\rx = 1", 1, "it is not TOML", id="bare-carriage-return"),
        pytest.param(b"a = 1\r\n\r\na = 2", 3, "a is given twice, first in line 1", id="duplicate-key"),
        pytest.param(b"[a]\n[a]", 2, "a is given twice, first in line 1", id="duplicate-table"),
        pytest.param(b"a.b = 1\n[a]", 2, "it is not TOML: cannot declare", id="table-over-dotted-key"),
        pytest.param(b"a = 1\nx = [\n1,\n[2,\n3", 4, "it is not TOML: unclosed array", id="unclosed"),
        pytest.param(b"a = 1\nb =", 2, "it is not TOML: invalid value", id="cut-off"),
        pytest.param(b"\nx = " + b"[" * 60_000, 2, "more than 12 levels", id="deep-arrays"),
        pytest.param(b"\nx = " + b"{a=" * 20_000, 2, "more than 12 levels", id="deep-tables"),
        pytest.param(b"\n" + b"a." * 30_000 + b"a = 1", 2, "more than 12 levels", id="deep-key"),
        pytest.param(b"\n[" + b"a." * 30_000 + b"a]", 2, "more than 12 levels", id="deep-header"),
        pytest.param(b"\nx = " + b"9" * 60_000, 2, "a number of 300 digits or more", id="endless-number"),
        pytest.param(b'x = "' + b"\\" * 60_001 + b'"', 1, "it is not TOML", id="backslashes"),
        pytest.param(b"x = '''" + b"''\n" * 20_000, 20_000, "it is not TOML", id="quotes"),
        pytest.param(b"".join(b"x%d=1\n" % n for n in range(6_000)), 1, "unknown key x0 (and 99 more)", id="many-keys"),
        pytest.param(b"[[a]]\n" * 10_000, 1, "unknown key a", id="many-tables"),
    ],
)
def test_hostile_text_is_refused_at_once(data, line, said):
    begun = time.perf_counter()

    with pytest.raises(PolicyFileError) as caught:
        parse_policy(data, name="p.toml")

    assert time.perf_counter() - begun < 2
    assert str(caught.value).startswith("p.toml: " if line is None else f"p.toml line {line}: ")
    assert said in str(caught.value)
    assert caught.value.hint
    assert isinstance(caught.value, UsageError)


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_policy_or_a_named_problem(data):
    problems_of(data)


@settings(deadline=None)
@given(st.sampled_from(PRESETS), st.data())
def test_any_truncated_or_flipped_preset_is_a_policy_or_a_named_problem(name, data):
    text = bytearray(preset_text(name))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))

    problems_of(bytes(text[: data.draw(st.integers(0, len(text)))]))


def test_all_problems_are_told_in_the_order_of_their_lines():
    problems = problems_of("[base]\nby = 1\nallow = 2\n[adapter]\nx = 3")

    assert [problem.line for problem in problems] == [2, 3, 5]


def test_digest_is_of_the_exact_bytes():
    text = preset_text("team")

    assert parse_policy(text).digest == f"sha256:{hashlib.sha256(text).hexdigest()}"
    assert parse_policy(text + b"\n").digest != parse_policy(text).digest


def test_empty_policy_is_valid():
    assert parse_policy(b"").document.base is None


def test_rule_knows_its_line_and_one_that_is_not_written_that_of_the_table_around_it():
    policy = parse_policy(f"# by us\n{CANDIDATE}max_rank = 8".encode())

    assert policy.lines["adapter", "candidate", "max_rank"] == 4
    assert policy.line_of(("adapter", "candidate", "approvals", "count")) == 2
    assert policy.line_of(("base",)) is None
