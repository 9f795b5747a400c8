"""The tenants of an open home: one transaction and one sealed event a change, and rows edited by hand are refused."""

import json
import threading
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tampering import run_sql
from unit.tenancy.tenancy_parts import NOW

from loractl_registry import Registry, tenants
from loractl_registry.actors import ActorError, ReasonError
from loractl_registry.errors import InvalidNameError
from loractl_registry.priority_classes import PriorityClass
from loractl_registry.tenancy import (
    ApiKeyExpiryError,
    ApiKeyNotFoundError,
    ApiKeyPrefixError,
    KeyRing,
    Limits,
    PepperNotFoundError,
    PepperPermissionsError,
    TenantError,
    TenantExistsError,
    TenantNotFoundError,
    TenantRefusedError,
    parse_bearer,
    pepper_path,
)


class Ticking:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def registry(home):
    with Registry.open(home, clock=Ticking(), busy_timeout_s=0.2) as opened:
        yield opened


@pytest.fixture
def tenancy(registry):
    return registry.tenancy


def add(tenancy, name="acme", **changes):
    return tenancy.add(name, **({"actor": "ada", "adapters": ["bot"]} | changes)).tenant


def actions(registry):
    return [event.action for event in registry.history()]


def recognised(tenancy, presented, *, at=NOW):
    bearer = parse_bearer([f"Bearer {presented.reveal()}".encode()])
    return tenancy.ring().find(bearer, at=at)


def test_home_without_tenants_is_empty_and_needs_no_pepper(tenancy, home):
    held = tenancy.snapshot()

    assert held.is_empty
    assert (held.tenants, held.keys) == ({}, ())
    assert not pepper_path(home).exists()


def test_added_tenant_is_in_the_snapshot_with_one_event(registry, tenancy):
    limits, each = Limits(concurrent=2), {"bot": Limits(tokens_per_day=9)}

    made = add(tenancy, data_classes=["internal"], weight=2.0, limits=limits, adapter_limits=each)

    assert tenancy.snapshot().tenants == {"acme": made}
    assert tenancy.tenant("acme") == made
    assert tenancy.tenants() == (made,)
    (event,) = registry.history()
    assert (event.action, event.subject, event.actor, event.at) == ("tenant.add", "tenant:acme", "ada", made.added_at)
    assert event.detail["limits"] == {"concurrent": 2}


def test_adding_the_same_tenant_again_changes_nothing(registry, tenancy):
    made = add(tenancy)

    again = tenancy.add("acme", actor="bob", adapters=["bot"])

    assert (again.tenant, again.is_new) == (made, False)
    assert actions(registry) == ["tenant.add"]


def test_adding_another_tenant_of_the_name_is_refused(registry, tenancy):
    add(tenancy)

    with pytest.raises(TenantExistsError):
        add(tenancy, adapters=["*"])

    assert actions(registry) == ["tenant.add"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"name": "Not A Name"}, InvalidNameError, id="name"),
        pytest.param({"actor": "\x1b[31m"}, ActorError, id="actor"),
        pytest.param({"adapters": ["../etc"]}, TenantError, id="pattern"),
        pytest.param({"data_classes": ["Top Secret"]}, TenantError, id="data-class"),
        pytest.param({"weight": float("nan")}, TenantError, id="weight"),
        pytest.param({"priority": "urgent"}, TenantError, id="priority"),
        pytest.param({"adapter_limits": {"bot*": Limits()}}, TenantError, id="adapter-limit"),
    ],
)
def test_what_cannot_be_said_of_a_tenant_leaves_nothing(registry, tenancy, arguments, error):
    with pytest.raises(error):
        add(tenancy, **arguments)

    assert registry.history() == ()
    assert tenancy.tenants() == ()


def test_change_touches_what_is_given_and_says_what_was(registry, tenancy):
    made = add(tenancy, limits=Limits(concurrent=2, max_output=7), adapter_limits={"bot": Limits(concurrent=1)})

    changed = tenancy.change(
        *("acme",),
        actor="bob",
        adapters=["bot", "poet"],
        limits={"concurrent": None, "tokens_per_day": 9},
        adapter_limits={"bot": {"concurrent": None}, "poet": {"max_output": 3}},
    )

    assert changed.tenant.adapters == ("bot", "poet")
    assert changed.tenant.limits == Limits(max_output=7, tokens_per_day=9)
    assert dict(changed.tenant.adapter_limits) == {"poet": Limits(max_output=3)}
    assert (changed.tenant.weight, changed.tenant.added_by) == (made.weight, "ada")
    assert changed.was == {
        "adapters": ["bot"],
        "limits": {"concurrent": 2, "max_output": 7},
        "adapter_limits": {"bot": {"concurrent": 1}},
    }
    assert tenancy.snapshot().tenants == {"acme": changed.tenant}
    assert registry.history()[-1].detail["was"] == changed.was


def test_change_of_the_class_is_one_sealed_event(registry, tenancy):
    add(tenancy)

    changed = tenancy.change("acme", actor="bob", priority=PriorityClass.BATCH)

    assert (changed.tenant.priority, changed.was) == (PriorityClass.BATCH, {"priority": "standard"})
    assert tenancy.snapshot().tenants["acme"].priority is PriorityClass.BATCH
    event = registry.history()[-1]
    assert (event.action, event.actor, event.detail["priority"]) == ("tenant.change", "bob", "batch")


@pytest.mark.parametrize(("priority", "is_trusted"), [("standard", True), ("interactive", False)])
def test_event_from_before_there_were_classes_says_standard(home, tenancy, monkeypatch, priority, is_trusted):
    said = tenants.said_of
    monkeypatch.setattr(tenants, "said_of", lambda one: {k: v for k, v in said(one).items() if k != "priority"})
    add(tenancy)
    run_sql(home, f"UPDATE tenant SET priority = '{priority}'")

    assert ("acme" in tenancy.snapshot().tenants) is is_trusted


def test_change_that_changes_nothing_is_no_event(registry, tenancy):
    add(tenancy, weight=2)

    assert tenancy.change("acme", actor="bob", weight=2.0, limits={"concurrent": None}).was == {}

    assert actions(registry) == ["tenant.add"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"limits": {"concurrent": 0}}, TenantError),
        ({"limits": {"requests_per_hour": 5}}, TenantError),
        ({"adapters": ["Bot"]}, TenantError),
        ({"weight": 0.0}, TenantError),
    ],
)
def test_change_that_cannot_be_leaves_the_tenant_as_it_was(registry, tenancy, change, error):
    made = add(tenancy)

    with pytest.raises(error):
        tenancy.change("acme", actor="bob", **change)

    assert tenancy.snapshot().tenants == {"acme": made}
    assert actions(registry) == ["tenant.add"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda tenancy: tenancy.tenant("nobody"),
        lambda tenancy: tenancy.change("nobody", actor="ada", weight=2.0),
        lambda tenancy: tenancy.remove("nobody", actor="ada", reason="x"),
        lambda tenancy: tenancy.create_key("nobody", actor="ada"),
        lambda tenancy: tenancy.keys("nobody"),
    ],
)
@pytest.mark.parametrize("is_lived_in", [False, True])
def test_tenant_that_is_not_there_is_not_found(registry, tenancy, ask, is_lived_in):
    if is_lived_in:
        add(tenancy)
    before = registry.history()

    with pytest.raises(TenantNotFoundError, match="nobody"):
        ask(tenancy)

    assert registry.history() == before


def test_removed_tenant_takes_its_keys_along_in_one_event(registry, tenancy):
    add(tenancy)
    key, presented = tenancy.create_key("acme", actor="ada")

    removed = tenancy.remove("acme", actor="bob", reason="left")

    assert removed.keys == (key.prefix,)
    assert tenancy.snapshot().is_empty
    assert recognised(tenancy, presented) is None
    event = registry.history()[-1]
    assert (event.action, event.reason, event.detail["keys"]) == ("tenant.remove", "left", [key.prefix])
    with pytest.raises(TenantNotFoundError):
        tenancy.remove("acme", actor="bob", reason="left")


def test_name_of_a_removed_tenant_is_free_and_old_keys_stay_dead(tenancy):
    add(tenancy)
    _, old = tenancy.create_key("acme", actor="ada")
    tenancy.remove("acme", actor="ada", reason="x")

    made = add(tenancy)
    _, new = tenancy.create_key("acme", actor="ada")

    assert tenancy.snapshot().tenants == {"acme": made}
    assert recognised(tenancy, old) is None
    assert recognised(tenancy, new).tenant == "acme"


def test_created_key_is_recognised_and_its_secret_is_nowhere_in_the_home(registry, tenancy, home):
    add(tenancy)

    key, presented = tenancy.create_key("acme", actor="ada")

    assert recognised(tenancy, presented) == key
    secret = presented.reveal().rpartition("_")[2]
    registry.close()
    assert all(secret.encode() not in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_key_is_unknown_from_its_end_on(tenancy):
    add(tenancy)
    end = NOW + timedelta(days=90)

    _, presented = tenancy.create_key("acme", actor="ada", expires_at=end)

    assert recognised(tenancy, presented, at=end - timedelta(seconds=1)) is not None
    assert recognised(tenancy, presented, at=end) is None


def test_key_that_is_expired_from_the_start_is_refused(registry, tenancy):
    add(tenancy)

    with pytest.raises(ApiKeyExpiryError):
        tenancy.create_key("acme", actor="ada", expires_at=NOW)

    assert tenancy.keys() == ()
    assert actions(registry) == ["tenant.add"]


def test_revoked_key_is_unknown_and_revoking_twice_is_one_event(registry, tenancy):
    add(tenancy)
    key, presented = tenancy.create_key("acme", actor="ada")

    first = tenancy.revoke_key(f"lora_{key.prefix}", actor="bob", reason="leaked")
    second = tenancy.revoke_key(key.prefix, actor="bob", reason="again")

    assert (first.is_new, second.is_new, first.key) == (True, False, second.key)
    assert recognised(tenancy, presented) is None
    assert [one.prefix for one in tenancy.keys("acme")] == [key.prefix]
    assert actions(registry) == ["tenant.add", "key.create", "key.revoke"]


@pytest.mark.parametrize(("prefix", "error"), [("0123456789ab", ApiKeyNotFoundError), ("zz", ApiKeyPrefixError)])
def test_key_that_is_not_there_is_not_revoked(registry, tenancy, prefix, error):
    with pytest.raises(error):
        tenancy.revoke_key(prefix, actor="ada", reason="x")

    assert registry.history() == ()


def test_whole_key_given_as_a_prefix_is_not_repeated(tenancy):
    add(tenancy)
    _, presented = tenancy.create_key("acme", actor="ada")

    with pytest.raises(ApiKeyPrefixError) as caught:
        tenancy.revoke_key(presented.reveal(), actor="ada", reason="x")

    assert presented.reveal().rpartition("_")[2] not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("verb", ["remove", "revoke_key"])
def test_what_ends_something_needs_a_reason(tenancy, verb):
    add(tenancy)
    key, _ = tenancy.create_key("acme", actor="ada")

    with pytest.raises(ReasonError):
        getattr(tenancy, verb)("acme" if verb == "remove" else key.prefix, actor="ada", reason=" ")


WIDEN = "UPDATE tenant SET adapters = '[\"*\"]' WHERE name = 'acme'"
UNLIMIT = "DELETE FROM tenant_limit"
RAISE = "UPDATE tenant SET weight = 1000 WHERE name = 'acme'"
DISOWN = "UPDATE tenant SET added_by = 'eve' WHERE name = 'acme'"
HIDE = "UPDATE tenant SET removed_at = added_at WHERE name = 'acme'"
FORGE = (
    "INSERT INTO audit SELECT (SELECT max(sequence) + 1 FROM audit), at, actor, 'tenant.change', subject, NULL, NULL,"
    " NULL, json_set(detail, '$.adapters', json('[\"*\"]')), digest FROM audit WHERE subject = 'tenant:acme'"
)
UNLOG = "DELETE FROM audit WHERE subject = 'tenant:acme'"
SCRAMBLE = "UPDATE audit SET detail = '[]' WHERE subject = 'tenant:acme'"
BRING_BACK = "UPDATE tenant SET removed_at = NULL"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        pytest.param([WIDEN], "adapters in the database differ", id="widened"),
        pytest.param([UNLIMIT], "limits in the database differ", id="no-limits"),
        pytest.param([RAISE], "weight in the database differ", id="heavier"),
        pytest.param([DISOWN], "added_by in the database differ", id="owner"),
        pytest.param([WIDEN, FORGE], "not written with the pepper", id="widened-with-an-event"),
        pytest.param([UNLOG], "no event", id="without-its-event"),
        pytest.param([HIDE], "no row", id="removed-by-hand"),
        pytest.param([SCRAMBLE], "not written with the pepper", id="no-object"),
    ],
)
def test_tenant_edited_by_hand_is_refused_with_its_keys_and_named(registry, tenancy, home, statements, said):
    add(tenancy, limits=Limits(concurrent=1))
    other = add(tenancy, "other")
    _, presented = tenancy.create_key("acme", actor="ada")
    _, kept = tenancy.create_key("other", actor="ada")

    run_sql(home, *statements)

    held = tenancy.snapshot()
    assert said in held.refused_tenants["acme"]
    assert held.refused_tenants.keys() == {"acme"}
    assert held.tenants == {"other": other}
    assert recognised(tenancy, presented) is None
    assert recognised(tenancy, kept) is not None
    assert any(line.startswith("tenant acme: ") for line in registry.identities.verify().problems)


def test_nothing_is_built_on_a_tenant_edited_by_hand(registry, tenancy, home):
    add(tenancy)
    run_sql(home, WIDEN)
    before = registry.history()

    for build in (
        lambda: tenancy.change("acme", actor="ada", weight=2.0),
        lambda: tenancy.create_key("acme", actor="ada"),
    ):
        with pytest.raises(TenantRefusedError, match="acme"):
            build()
    with pytest.raises(TenantExistsError):
        add(tenancy, adapters=["*"])

    assert registry.history() == before


@pytest.mark.parametrize("statement", [WIDEN, HIDE, UNLOG])
def test_refused_tenant_can_be_removed_and_added_again(tenancy, home, statement):
    add(tenancy)
    run_sql(home, statement)

    tenancy.remove("acme", actor="ada", reason="edited by hand")
    assert tenancy.snapshot().is_empty
    made = add(tenancy)

    assert tenancy.snapshot().tenants == {"acme": made}


def test_older_event_put_back_as_the_newest_is_refused(tenancy, home):
    add(tenancy, adapters=["*"])
    tenancy.change("acme", actor="ada", adapters=["bot"])

    run_sql(
        home,
        WIDEN,
        "INSERT INTO audit SELECT (SELECT max(sequence) + 1 FROM audit), at, actor, action, subject, from_stage,"
        " to_stage, reason, detail, digest FROM audit WHERE action = 'tenant.add'",
    )

    assert "not written with the pepper" in tenancy.snapshot().refused_tenants["acme"]


def test_newest_event_cut_off_leaves_a_gap_that_is_told(registry, tenancy, home):
    add(tenancy, adapters=["*"])
    tenancy.change("acme", actor="ada", adapters=["bot"])
    add(tenancy, "other")

    run_sql(home, WIDEN, "DELETE FROM audit WHERE action = 'tenant.change'")

    assert any("missing" in line for line in registry.identities.verify().problems)


def test_key_brought_back_by_hand_is_refused(tenancy, home):
    add(tenancy)
    key, presented = tenancy.create_key("acme", actor="ada")
    tenancy.revoke_key(key.prefix, actor="ada", reason="leaked")

    run_sql(home, "UPDATE api_key SET revoked_at = NULL")

    assert "was revoked" in tenancy.snapshot().refused_keys[key.prefix]
    assert recognised(tenancy, presented) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE api_key SET created_at = '2020-01-01T00:00:00.000000Z'",
        "UPDATE api_key SET expires_at = '2099-01-01T00:00:00.000000Z'",
        "UPDATE api_key SET tenant_id = (SELECT id FROM tenant WHERE name = 'rich')",
        "DELETE FROM audit WHERE action = 'key.create'",
    ],
)
def test_key_edited_by_hand_opens_nothing(registry, tenancy, home, statement):
    add(tenancy)
    add(tenancy, "rich", adapters=["*"])
    key, presented = tenancy.create_key("acme", actor="ada")

    run_sql(home, statement)

    assert key.prefix in tenancy.snapshot().refused_keys
    assert recognised(tenancy, presented) is None
    assert any(line.startswith(f"API key {key.prefix}: ") for line in registry.identities.verify().problems)


def test_key_of_a_removed_tenant_is_not_handed_to_the_next_of_its_name(tenancy, home):
    add(tenancy)
    _, presented = tenancy.create_key("acme", actor="ada")
    tenancy.remove("acme", actor="ada", reason="x")
    add(tenancy, adapters=["*"])

    run_sql(home, "UPDATE api_key SET revoked_at = NULL, tenant_id = (SELECT max(id) FROM tenant)")

    assert recognised(tenancy, presented) is None


def test_removed_tenant_brought_back_by_hand_is_refused(tenancy, home):
    add(tenancy)
    tenancy.remove("acme", actor="ada", reason="x")

    run_sql(home, BRING_BACK)

    assert "was removed" in tenancy.snapshot().refused_tenants["acme"]


def test_tenants_deleted_by_hand_do_not_open_the_server(tenancy, home):
    add(tenancy)

    run_sql(home, "DELETE FROM tenant")

    assert not tenancy.snapshot().is_empty


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        pytest.param(lambda path: path.unlink(), PepperNotFoundError, id="lost"),
        pytest.param(lambda path: path.chmod(0o644), PepperPermissionsError, id="open"),
    ],
)
def test_without_a_usable_pepper_nothing_is_served_and_all_is_listed(tenancy, home, harm, error):
    add(tenancy)
    tenancy.create_key("acme", actor="ada")
    harm(pepper_path(home))

    for ask in (tenancy.snapshot, tenancy.ring, lambda: tenancy.create_key("acme", actor="ada")):
        with pytest.raises(error):
            ask()

    assert [one.name for one in tenancy.tenants()] == ["acme"]
    assert str(pepper_path(home)) in tenancy.objections()["acme"]


def test_lost_pepper_is_mended_by_removing_and_adding(tenancy, home):
    add(tenancy)
    pepper_path(home).unlink()

    tenancy.remove("acme", actor="ada", reason="the pepper is lost")
    made = add(tenancy)
    _, presented = tenancy.create_key("acme", actor="ada")

    assert tenancy.snapshot().tenants == {"acme": made}
    assert recognised(tenancy, presented) is not None


def test_objections_are_none_where_all_is_well(tenancy):
    add(tenancy)

    assert tenancy.objections() == {}


def test_change_shows_in_what_a_server_watches(registry, tenancy):
    before = registry.changes()

    add(tenancy)

    assert registry.changes() != before


def test_two_processes_adding_one_tenant_agree(home):
    results = []

    def work():
        with Registry.open(home, busy_timeout_s=5.0) as registry:
            results.append(registry.tenancy.add("acme", actor="ada", adapters=["bot"]).is_new)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == [False, False, False, True]
    with Registry.open(home) as registry:
        assert registry.tenancy.objections() == {}


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NAMES, st.sampled_from(["bot", "x*"])),
        st.tuples(st.just("change"), NAMES, st.sampled_from(["bot", "*"])),
        st.tuples(st.just("remove"), NAMES, st.just("")),
        st.tuples(st.just("key"), NAMES, st.just("")),
        st.tuples(st.just("revoke"), NAMES, st.just("")),
    ),
    max_size=12,
)


def _step(tenancy, model, verb, name, pattern):
    """Take one step in the home and in the model: name -> (pattern, live keys)."""
    match verb:
        case "add" if name not in model:
            tenancy.add(name, actor="ada", adapters=[pattern])
            model[name] = (pattern, [])
        case "change" if name in model:
            tenancy.change(name, actor="ada", adapters=[pattern])
            model[name] = (pattern, model[name][1])
        case "remove" if name in model:
            tenancy.remove(name, actor="ada", reason="x")
            del model[name]
        case "key" if name in model:
            model[name][1].append(tenancy.create_key(name, actor="ada")[1])
        case "revoke" if name in model and model[name][1]:
            tenancy.revoke_key(model[name][1].pop().prefix, actor="ada", reason="x")
        case _:
            pass


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_snapshot_is_what_the_steps_left_and_nothing_is_objected(tmp_path_factory, steps):
    model = {}
    with Registry.open(tmp_path_factory.mktemp("model"), clock=Ticking()) as registry:
        for step in steps:
            _step(registry.tenancy, model, *step)

        held = registry.tenancy.snapshot()

        assert {name: one.adapters for name, one in held.tenants.items()} == {n: (p,) for n, (p, _) in model.items()}
        assert (held.refused_tenants, held.refused_keys) == ({}, {})
        if model:
            ring = KeyRing(held.keys, registry.tenancy.pepper())
            assert all(ring.find(key, at=NOW).tenant == name for name, (_, keys) in model.items() for key in keys)
        assert len(held.keys) == sum(len(keys) for _, keys in model.values())
        assert registry.identities.verify().problems == ()


def test_no_event_holds_a_secret(registry, tenancy):
    add(tenancy)
    key, presented = tenancy.create_key("acme", actor="ada")
    tenancy.revoke_key(key.prefix, actor="ada", reason="x")

    told = json.dumps([dict(event.detail) for event in registry.history()])

    assert presented.reveal().rpartition("_")[2] not in told
    assert key.digest not in told
