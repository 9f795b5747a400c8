"""Tests of a policy: what passes, what fails, and what is no test."""

import pytest

from loractl_registry.policies import PolicyFileError, parse_cases, parse_policy, preset, run_cases

SHARED = """\
[request]
stage = "approved"
actor = "rita"
roles = ["reviewer"]
now = 2026-01-31T09:00:00Z
added_by = "carl"
rank = 16
size_bytes = 1000
base = { name = "oss", licence = "apache-2.0" }
data = [{ name = "wiki", licence = "mit", data_class = "public" }]
signatures = [{ identity = "carl", roles = ["contributor"] }]
approvals = [{ identity = "rita", at = 2026-01-30T09:00:00Z, roles = ["reviewer"] }]
evidence = [
    { type = "effect", passed = true },
    { type = "scan", passed = true },
    { type = "eval", kind = "lm-eval", metrics = { acc = 0.7 } },
]
"""


def results(cases, policy=None):
    return list(run_cases(policy or preset("team"), parse_cases((SHARED + cases).encode())))


def test_cases_that_come_out_as_they_must_pass():
    found = results(
        """
        [[case]]
        name = "all is there"
        expect = "allow"
        rule = "adapter.approved.approvals"
        expires = 2026-07-29T09:00:00Z

        [[case]]
        name = "four eyes"
        expect = "deny"
        rule = "adapter.approved.approvals"
        [case.request]
        added_by = "rita"

        [[case]]
        name = "any rule may deny"
        expect = "deny"
        request = { rank = 512, evidence = [] }
        """
    )

    assert [result.problem for result in found] == [None, None, None]
    assert all(result.has_passed for result in found)
    assert [(result.case.name, result.case.line) for result in found][1] == ("four eyes", 25)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ('expect = "deny"', "expected deny and got allow"),
        ('expect = "allow"\nrequest.rank = 999', "adapter.candidate.max_rank denied: 999 is more than 256"),
        ('expect = "deny"\nrequest.rank = 999\nrule = "adapter.approved.by"', "adapter.approved.by did not deny"),
        (
            'expect = "allow"\nrule = "adapter.aproved"',
            "no rule adapter.aproved was asked; asked were adapter.candidate",
        ),
        ('expect = "allow"\nexpires = 2027-01-01T00:00:00Z', "expected it to expire on 2027-01-01"),
    ],
)
def test_case_that_comes_out_otherwise_says_what_came_out(case, said):
    (result,) = results(f'[[case]]\nname = "x"\n{case}')

    assert not result.has_passed
    assert said in result.problem


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", None, "policy.tests.toml has no 'case'"),
        ("case = []", 1, "case is []"),
        ("[[case]]\nname = 'x'\nexpect = 'maybe'", 3, "case[0].expect is 'maybe'"),
        ("[[case]]\nname = 'x'\nexpect = 'deny'\n", 1, "case[0].request has no 'stage'"),
        ("[request]\nrank = 'x'\n[[case]]\nname = 'x'\nexpect = 'deny'\n", 2, "request.rank is 'x'"),
        (
            "[request]\nrank = 'x'\n[[case]]\nname = 'x'\nexpect = 'deny'\nrequest.rank = 'y'\n",
            6,
            "case[0].request.rank is 'y'",
        ),
        ("[[case]]\nname = 'x'\nexpect = 'deny'\n[case.request]\nrnk = 1", 5, "unknown key case[0].request.rnk"),
        (
            "[[case]]\nname = 'x'\nexpect = 'deny'\n[case.request]\nnow = 2026-01-31T09:00:00",
            5,
            "case[0].request.now is",
        ),
        (
            "[[case]]\nname = 'x'\nexpect = 'deny'\n"
            "[[case.request.approvals]]\nidentity = 'a'\nat = 9999-01-31T09:00:00Z",
            6,
            "case[0].request.approvals[0].at is",
        ),
    ],
)
def test_malformed_case_is_refused_with_its_line(text, line, said):
    with pytest.raises(PolicyFileError) as caught:
        parse_cases(text.encode())

    assert any(problem.line == line and said in problem.text for problem in caught.value.problems), (
        caught.value.problems
    )


def test_problem_of_the_shared_request_is_told_once():
    case = "[[case]]\nname = 'x'\nexpect = 'deny'\n"

    with pytest.raises(PolicyFileError) as caught:
        parse_cases((SHARED.replace("rank = 16", "rank = 0.5") + case + case).encode())

    assert [problem.line for problem in caught.value.problems] == [7]


def test_break_glass_and_tenant_can_be_tested():
    policy = parse_policy(
        b'base.by = ["anyone"]\n[adapter.candidate]\nby = ["carl"]\n[adapter.data.tenants]\npublic = ["acme"]\n'
        b'[adapter.break_glass]\nby = ["rita"]\nhours = 1'
    )

    found = results(
        '[[case]]\nname = "a"\nexpect = "deny"\nrule = "adapter.data.tenants.public"\n'
        'request = { stage = "candidate", actor = "carl", tenant = "other" }\n'
        '[[case]]\nname = "b"\nexpect = "allow"\nexpires = 2026-01-31T10:00:00Z\n'
        'request = { stage = "candidate", tenant = "acme", break_glass = "down" }\n',
        policy,
    )

    assert [result.problem for result in found] == [None, None]
