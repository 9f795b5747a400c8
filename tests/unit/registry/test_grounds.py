"""Whom a statement lets use a version: never more than every class of its data allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry.ledger.facts import VersionFacts
from loractl_registry.ledger.grounds import grounds_of
from loractl_registry.policies import DataSet, parse_policy, preset
from loractl_registry.policies.patterns import matches
from loractl_registry.trust.fields import ANY_TENANT

PATTERNS = st.lists(
    st.text("ab*-", min_size=1, max_size=4).filter(lambda text: "**" not in text), max_size=3, unique=True
)


def policy_of(**tenants):
    rows = "".join(f"{name} = {list(allowed)!r}\n" for name, allowed in tenants.items() if allowed)
    classes = sorted(tenants)
    return parse_policy(f"[adapter.data]\nclasses = {classes!r}\n[adapter.data.tenants]\n{rows}".encode())


def facts_of(*classes):
    return VersionFacts(data=tuple(DataSet(f"set-{name}", None, name) for name in classes), counted=("sha256:x",))


def test_everybody_may_where_the_policy_says_nothing_of_data():
    grounds = grounds_of(preset("solo"), facts_of("internal"))

    assert (grounds.tenants, grounds.data_classes, grounds.evidence) == ((ANY_TENANT,), ("internal",), ("sha256:x",))


@pytest.mark.parametrize(
    ("tenants", "classes", "allowed"),
    [
        pytest.param({"open": ["*"]}, ["open"], (ANY_TENANT,), id="everybody"),
        pytest.param({"open": ["*"], "shut": ["acme-*"]}, ["open", "shut"], ("acme-*",), id="the-narrower"),
        pytest.param({"one": ["acme-*"], "two": ["acme-eu", "other"]}, ["one", "two"], ("acme-eu",), id="within"),
        pytest.param({"one": ["acme"], "two": ["other"]}, ["one", "two"], (), id="nobody"),
        pytest.param({"one": ["acme"]}, ["one", "unknown"], (), id="class-without-a-rule"),
        pytest.param({"one": ["Acme Corp"]}, ["one"], (), id="no-name-of-a-tenant"),
        pytest.param({"one": ["acme"]}, [], (), id="nobody-said-what-data"),
    ],
)
def test_tenants_are_those_that_every_class_allows(tenants, classes, allowed):
    assert grounds_of(policy_of(**tenants), facts_of(*classes)).tenants == allowed


@given(PATTERNS, PATTERNS, st.text("ab-", min_size=1, max_size=5))
def test_nobody_may_whom_one_class_does_not_allow(one, two, tenant):
    allowed = grounds_of(policy_of(one=one, two=two), facts_of("one", "two")).tenants

    if any(matches(pattern, tenant) for pattern in allowed):
        assert any(matches(pattern, tenant) for pattern in one)
        assert any(matches(pattern, tenant) for pattern in two)
