"""Tenants: what can be said about one, what it may use, and its own corner of the prefix cache."""

from dataclasses import FrozenInstanceError
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.tenancy.tenancy_parts import NOW, PEPPER, tenant

from loractl_registry.errors import InvalidNameError
from loractl_registry.tenancy import (
    NO_LIMITS,
    Limits,
    Offer,
    Pepper,
    TenantError,
    cache_salt,
    may_use,
    usable_names,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)


@pytest.mark.parametrize("name", ["", "Acme", "acme corp", "acme\n", "акме", "a" * 64, "-a", "a@1"])
def test_name_follows_the_rule_for_adapters(name):
    with pytest.raises(InvalidNameError):
        tenant(name)


@pytest.mark.parametrize("weight", [0, -1, 0.0001, 1001, float("nan"), float("inf")])
def test_weight_is_a_positive_number(weight):
    with pytest.raises(TenantError, match="weight"):
        tenant(weight=weight)


@pytest.mark.parametrize(
    "pattern",
    ["", "Bot", "bot@", "bot@0", "bot@live", "bot@*", "bot@99999999999", "bot@2147483648", "b\n", "[a-z]", "a" * 64],
)
def test_adapter_pattern_is_a_name_with_stars(pattern):
    with pytest.raises(TenantError, match="adapter pattern"):
        tenant(adapters=(pattern,))


@pytest.mark.parametrize("name", ["", "Internal", "*x", "a b"])
def test_data_class_is_a_name(name):
    with pytest.raises(TenantError, match="data class"):
        tenant(data_classes=(name,))


def test_star_stands_alone_among_data_classes():
    with pytest.raises(TenantError, match="data class"):
        tenant(data_classes=("*", "public"))


def test_adapter_limits_are_for_adapters_in_full():
    with pytest.raises(TenantError, match="adapter"):
        tenant(adapter_limits={"bot-*": Limits(concurrent=1)})


def test_lists_are_bounded():
    with pytest.raises(TenantError):
        tenant(adapters=tuple(f"a{number}" for number in range(1001)))


def test_lists_are_sets():
    assert tenant(adapters=("b", "a", "b")).adapters == ("a", "b")


@pytest.mark.parametrize("name", ["requests_per_minute", "concurrent", "tokens_per_day", "max_output"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1", 2**53])
def test_limit_is_a_whole_number_from_one(name, value):
    with pytest.raises(TenantError, match=name):
        Limits(**{name: value})


def test_limits_that_are_set_are_listed():
    assert Limits(concurrent=2).to_dict() == {"concurrent": 2}
    assert NO_LIMITS.to_dict() == {}


def test_tenant_cannot_be_changed():
    limits = {"bot": Limits(concurrent=1)}
    held = tenant(adapter_limits=limits)
    limits["bot"] = Limits(concurrent=2)

    assert held.adapter_limits["bot"].concurrent == 1
    with pytest.raises(FrozenInstanceError):
        held.weight = 2.0
    with pytest.raises(TypeError):
        held.adapter_limits["bot"] = NO_LIMITS


@pytest.mark.parametrize(
    ("patterns", "adapter", "version", "expected"),
    [
        pytest.param((), "bot", 1, False, id="nothing"),
        pytest.param(("bot",), "bot", 1, True, id="name"),
        pytest.param(("bot",), "bot-2", 1, False, id="longer-name"),
        pytest.param(("bot-*",), "bot-2", 1, True, id="pattern"),
        pytest.param(("bot-*",), "bot", 1, False, id="pattern-needs-its-text"),
        pytest.param(("*-bot",), "a-bot", 1, True, id="pattern-at-the-start"),
        pytest.param(("*",), "bot", 1, True, id="everything"),
        pytest.param(("*",), "base", None, True, id="everything-and-the-base"),
        pytest.param(("bot@2",), "bot", 2, True, id="version"),
        pytest.param(("bot@2",), "bot", 1, False, id="other-version"),
        pytest.param(("bot@2",), "bot", 22, False, id="longer-version"),
        pytest.param(("bot@2",), "bot", None, False, id="version-of-a-base"),
        pytest.param(("x", "b*@2"), "bot", 2, True, id="one-of-several"),
    ],
)
def test_adapters_are_covered_by_name(patterns, adapter, version, expected):
    assert may_use(tenant(adapters=patterns), adapter, version) is expected


@pytest.mark.parametrize(
    ("held", "needed", "expected"),
    [
        pytest.param((), (), True, id="none-needed"),
        pytest.param((), ("public",), False, id="none-held"),
        pytest.param(("public",), ("public",), True, id="same"),
        pytest.param(("public",), ("public", "internal"), False, id="one-missing"),
        pytest.param(("confidential",), ("public",), False, id="no-order-is-assumed"),
        pytest.param(("*",), ("public", "secret"), True, id="all"),
        pytest.param(("public",), ("*",), False, id="star-is-no-class"),
    ],
)
def test_every_data_class_is_needed(held, needed, expected):
    assert may_use(tenant(data_classes=held), "bot", 1, needed) is expected


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(None, True), ((), False), (("acme",), True), (("other",), False), (("*",), True), (("acm",), False)],
)
def test_statement_names_the_tenants(allowed, expected):
    assert may_use(tenant(), "bot", 1, allowed_tenants=allowed) is expected


def test_usable_names_are_those_that_may_be_used():
    offers = {
        "base": Offer("base", None),
        "bot": Offer("bot", 3),
        "bot@3": Offer("bot", 3),
        "bot@2": Offer("bot", 2),
        "secret": Offer("secret", 1, frozenset({"confidential"})),
        "theirs": Offer("theirs", 1, allowed_tenants=frozenset({"other"})),
    }

    assert usable_names(tenant(adapters=("bot@3", "secret", "theirs")), offers) == {"bot", "bot@3"}
    assert usable_names(tenant(adapters=()), offers) == frozenset()


@given(st.lists(NAMES, max_size=4), NAMES, st.none() | st.integers(1, 9))
def test_tenant_without_a_matching_pattern_may_use_nothing(patterns, adapter, version):
    allowed = may_use(tenant(adapters=tuple(patterns)), adapter, version)

    assert allowed is (adapter in patterns)


def test_cache_salt_is_the_tenants_own():
    salts = {
        cache_salt(tenant("acme"), PEPPER),
        cache_salt(tenant("other"), PEPPER),
        cache_salt(tenant("acme", added_at=NOW + timedelta(seconds=1)), PEPPER),
        cache_salt(tenant("acme"), Pepper(bytes(32))),
    }

    assert len(salts) == 4
    assert all(len(salt) == 64 for salt in salts)


def test_cache_salt_outlives_a_change_of_limits():
    assert cache_salt(tenant(weight=2, limits=Limits(concurrent=1)), PEPPER) == cache_salt(tenant(), PEPPER)
