"""The tables of tenants and keys: what is written comes back, and what is written down stays."""

import sqlite3
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.tenancy.tenancy_parts import NOW, PEPPER, tenant

from loractl_registry._store.migrate import apply_migrations, known_migrations
from loractl_registry.clock import to_text
from loractl_registry.tenancy import (
    LIMIT_NAMES,
    ApiKeyNotFoundError,
    KeyRing,
    Limits,
    TenantExistsError,
    TenantNotFoundError,
    create_key,
    store,
)

LATER = NOW + timedelta(hours=1)
LIMITS = st.builds(Limits, **{name: st.none() | st.integers(1, 2**53 - 1) for name in LIMIT_NAMES})


def opened():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")
    apply_migrations(connection, known_migrations(), to_text(NOW))
    return connection


@pytest.fixture
def connection():
    held = opened()
    yield held
    held.close()


def add_key(connection, name="acme", **changes):
    presented, key = create_key(name, pepper=PEPPER, actor="ada", at=NOW)
    key = replace(key, **changes)
    store.add_key(connection, key)
    return presented, key


@given(
    st.lists(st.sampled_from(["*", "bot", "bot@3", "a-*"]), max_size=3),
    st.floats(0.001, 1000),
    LIMITS,
    st.dictionaries(st.sampled_from(["bot", "other"]), LIMITS),
)
def test_tenant_comes_back_as_it_was(adapters, weight, limits, adapter_limits):
    connection = opened()
    one = tenant(adapters=tuple(adapters), data_classes=("public",), weight=weight, limits=limits)
    one = replace(one, adapter_limits={name: held for name, held in adapter_limits.items() if held.to_dict()})

    store.add_tenant(connection, one)

    assert store.get_tenant(connection, "acme") == one
    connection.close()


def test_tenants_are_listed_by_name_with_their_own_limits(connection):
    store.add_tenant(connection, tenant("b", limits=Limits(concurrent=2)))
    store.add_tenant(connection, tenant("a", adapter_limits={"bot": Limits(concurrent=1)}))

    first, second = store.list_tenants(connection)

    assert (first.name, first.limits.concurrent, first.adapter_limits["bot"].concurrent) == ("a", None, 1)
    assert (second.name, second.limits.concurrent, dict(second.adapter_limits)) == ("b", 2, {})


def test_name_is_taken_once(connection):
    store.add_tenant(connection, tenant())

    with pytest.raises(TenantExistsError, match="acme"):
        store.add_tenant(connection, tenant())


def test_missing_tenant_comes_with_a_suggestion(connection):
    store.add_tenant(connection, tenant())

    with pytest.raises(TenantNotFoundError) as caught:
        store.get_tenant(connection, "acmee")

    assert caught.value.hint == "did you mean acme?"


def test_change_replaces_everything_but_the_beginning(connection):
    store.add_tenant(connection, tenant(limits=Limits(concurrent=2), adapter_limits={"bot": Limits(concurrent=1)}))
    wanted = tenant(adapters=("bot",), weight=3, limits=Limits(tokens_per_day=9), added_at=LATER, added_by="bob")

    assert store.change_tenant(connection, wanted)

    assert store.get_tenant(connection, "acme") == replace(wanted, added_at=NOW, added_by="ada")
    assert not store.change_tenant(connection, wanted)


def test_change_of_a_missing_tenant_is_refused(connection):
    with pytest.raises(TenantNotFoundError):
        store.change_tenant(connection, tenant())


def test_removed_tenant_takes_its_keys_along(connection):
    store.add_tenant(connection, tenant())
    store.add_tenant(connection, tenant("other"))
    (_, key), (_, kept) = add_key(connection), add_key(connection, "other")

    assert store.remove_tenant(connection, "acme", at=LATER) == (key.prefix,)

    assert [one.name for one in store.list_tenants(connection)] == ["other"]
    assert store.snapshot(connection).keys == (kept,)
    assert store.get_key(connection, key.prefix).revoked_at == LATER


def test_name_of_a_removed_tenant_is_free_and_its_keys_stay_dead(connection):
    store.add_tenant(connection, tenant(limits=Limits(concurrent=2)))
    presented, _ = add_key(connection)
    store.remove_tenant(connection, "acme", at=LATER)

    store.add_tenant(connection, tenant(added_at=LATER))

    assert store.get_tenant(connection, "acme").limits.concurrent is None
    assert store.list_keys(connection) == store.list_keys(connection, tenant="acme") == ()
    assert KeyRing(store.snapshot(connection).keys, PEPPER).find(presented, at=LATER) is None


def test_key_comes_back_and_is_recognised(connection):
    store.add_tenant(connection, tenant())
    presented, key = create_key("acme", pepper=PEPPER, actor="ada", at=NOW, expires_at=LATER)
    store.add_key(connection, key)

    assert store.get_key(connection, key.prefix) == key
    assert KeyRing(store.snapshot(connection).keys, PEPPER).find(presented, at=NOW) == key


def test_key_needs_its_tenant(connection):
    with pytest.raises(TenantNotFoundError):
        add_key(connection)


def test_revoking_twice_keeps_the_first_moment(connection):
    store.add_tenant(connection, tenant())
    _, key = add_key(connection)

    first = store.revoke_key(connection, key.prefix, at=LATER)
    second = store.revoke_key(connection, key.prefix, at=LATER + timedelta(days=1))

    assert first == (replace(key, revoked_at=LATER), True)
    assert second == (replace(key, revoked_at=LATER), False)
    assert store.snapshot(connection).keys == ()
    assert len(store.list_keys(connection)) == 1


def test_missing_key_is_named_by_its_prefix(connection):
    with pytest.raises(ApiKeyNotFoundError, match="0123456789ab"):
        store.revoke_key(connection, "0123456789ab", at=NOW)


def test_no_secret_is_in_the_database(connection):
    store.add_tenant(connection, tenant())
    presented, _ = add_key(connection)

    assert presented.reveal().rpartition("_")[2] not in "\n".join(connection.iterdump())


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM tenant",
        "UPDATE tenant SET name = 'b'",
        "DELETE FROM api_key",
        "UPDATE api_key SET digest = 'hmac-sha256:' || substr(hex(zeroblob(32)), 1)",
        "UPDATE api_key SET expires_at = NULL",
        "UPDATE api_key SET revoked_at = NULL WHERE revoked_at IS NOT NULL",
        "INSERT OR REPLACE INTO api_key SELECT * FROM api_key",
        "UPDATE tenant SET weight = 0",
        "UPDATE tenant SET priority = 'urgent'",
        "UPDATE tenant SET adapters = 'x'",
        "INSERT INTO tenant_limit (tenant_id, adapter) VALUES (99, '')",
        "INSERT INTO tenant_limit (tenant_id, adapter, concurrent) VALUES (1, '', 0)",
        "INSERT INTO tenant (name, adapters, data_classes, weight, added_at, added_by)"
        " VALUES ('ACME', '[]', '[]', 1, '2026-01-31T09:00:00.000000Z', 'x')",
    ],
)
def test_database_holds_its_rules_itself(connection, statement):
    store.add_tenant(connection, tenant())
    add_key(connection, revoked_at=NOW)

    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)


def test_removed_tenant_is_not_brought_back(connection):
    store.add_tenant(connection, tenant())
    store.remove_tenant(connection, "acme", at=LATER)

    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE tenant SET removed_at = NULL")


def test_what_is_said_about_a_tenant_can_be_shown():
    one = tenant(limits=Limits(concurrent=2), adapter_limits={"bot": Limits(tokens_per_day=9)})

    assert store.tenant_to_dict(one) == {
        "adapters": ["*"],
        "data_classes": [],
        "weight": 1.0,
        "priority": "standard",
        "limits": {"concurrent": 2},
        "adapter_limits": {"bot": {"tokens_per_day": 9}},
    }
