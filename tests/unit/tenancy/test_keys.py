"""API keys: what is shown, what is kept, what is recognised, and that nothing gives a secret away."""

import copy
import hmac
import pickle
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.tenancy.tenancy_parts import NOW, PEPPER

from loractl_registry.errors import InvalidNameError
from loractl_registry.tenancy import (
    ApiKeyExpiryError,
    ApiKeyPrefixError,
    KeyRing,
    Pepper,
    create_key,
    parse_bearer,
    parse_prefix,
)

LATER = NOW + timedelta(days=30)


def new_key(name="acme", expires_at=None):
    return create_key(name, pepper=PEPPER, actor="ada", at=NOW, expires_at=expires_at)


def bearer(text):
    return parse_bearer([b"Bearer " + text.encode()])


def test_key_has_a_visible_prefix_and_256_bits():
    presented, kept = new_key()

    assert re.fullmatch(r"lora_[0-9a-f]{12}_[0-9a-f]{64}", presented.reveal())
    assert presented.reveal().split("_")[1] == kept.prefix == presented.prefix


def test_key_is_recognised():
    presented, kept = new_key()

    assert KeyRing([new_key()[1], kept], PEPPER).find(bearer(presented.reveal()), at=NOW) == kept


def test_no_key_is_recognised_with_another_secret():
    presented, kept = new_key()
    text = presented.reveal()
    other = text[:-1] + ("0" if text[-1] != "0" else "1")

    assert KeyRing([kept], PEPPER).find(bearer(other), at=NOW) is None


def test_leaked_database_is_worth_nothing_without_the_pepper():
    presented, kept = new_key()

    assert KeyRing([kept], Pepper(bytes(32))).find(presented, at=NOW) is None


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda key: {"tenant": "other"}, id="tenant"),
        pytest.param(lambda key: {"expires_at": None}, id="expiry-dropped"),
        pytest.param(lambda key: {"expires_at": LATER + timedelta(days=1)}, id="expiry-later"),
        pytest.param(lambda key: {"digest": new_key()[1].digest}, id="digest-of-another"),
    ],
)
def test_row_that_was_edited_by_hand_matches_nothing(edit):
    presented, kept = new_key(expires_at=LATER)

    assert KeyRing([replace(kept, **edit(kept))], PEPPER).find(presented, at=NOW) is None


def test_key_of_another_prefix_does_not_open_this_one():
    presented, kept = new_key()
    other = new_key()[1]

    assert KeyRing([replace(kept, prefix=other.prefix)], PEPPER).find(presented, at=NOW) is None


def test_key_ends_at_its_expiry():
    presented, kept = new_key(expires_at=LATER)
    ring = KeyRing([kept], PEPPER)

    assert ring.find(presented, at=LATER - timedelta(microseconds=1)) == kept
    assert ring.find(presented, at=LATER) is None


def test_revoked_key_is_unknown():
    presented, kept = new_key()

    assert KeyRing([replace(kept, revoked_at=NOW)], PEPPER).find(presented, at=NOW) is None


@pytest.mark.parametrize("expires_at", [NOW, NOW - timedelta(days=1)])
def test_key_that_is_expired_from_the_start_is_refused(expires_at):
    with pytest.raises(ApiKeyExpiryError):
        new_key(expires_at=expires_at)


@pytest.mark.parametrize("name", ["", "A", "a b", "é", "a" * 64, "a\0"])
def test_key_needs_a_name_for_its_tenant(name):
    with pytest.raises(InvalidNameError):
        new_key(name)


def test_every_lookup_takes_the_same_steps(monkeypatch):
    alone, kept = new_key()
    expiring, kept_expiring = new_key("a-tenant-with-a-long-name", expires_at=LATER)
    revoked, kept_revoked = new_key()
    ring = KeyRing([kept, kept_expiring, replace(kept_revoked, revoked_at=NOW)], PEPPER)
    text = alone.reveal()
    wrong = bearer(text[:-1] + ("0" if text[-1] != "0" else "1"))
    steps = []
    real_mac, real_compare = Pepper.mac, hmac.compare_digest

    def mac(pepper, purpose, message):
        steps.append(("hmac", purpose, len(message)))
        return real_mac(pepper, purpose, message)

    def compare(left, right):
        steps.append(("compare", len(left), len(right)))
        return real_compare(left, right)

    monkeypatch.setattr(Pepper, "mac", mac)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    taken = []
    for presented in (alone, expiring, revoked, wrong, new_key()[0]):
        steps.clear()
        ring.find(presented, at=LATER)
        taken.append(tuple(steps))

    assert len(set(taken)) == 1
    assert [step[0] for step in taken[0]] == ["hmac", "compare"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param([b"Bearer KEY", b"Bearer KEY"], id="two"),
        pytest.param([b""], id="empty"),
        pytest.param([b"KEY"], id="no-scheme"),
        pytest.param([b"Basic KEY"], id="basic"),
        pytest.param([b"BearerKEY"], id="no-blank"),
        pytest.param([b"Bearer\tKEY"], id="tab"),
        pytest.param([b" Bearer KEY"], id="blank-before"),
        pytest.param([b"Bearer KEY "], id="blank-after"),
        pytest.param([b"Bearer KEY\n"], id="line-break"),
        pytest.param([b"Bearer KEY\0"], id="nul"),
        pytest.param([b"Bearer KEY, KEY"], id="list"),
        pytest.param([b"Bearer" + b" " * 5 + b"KEY"], id="many-blanks"),
        pytest.param([b"Bearer " + b"KEY" * 100_000], id="long"),
        pytest.param([b" " * 100_000], id="blanks"),
    ],
)
def test_hostile_header_holds_no_key(values):
    text = new_key()[0].reveal().encode()

    assert parse_bearer([value.replace(b"KEY", text) for value in values]) is None


@pytest.mark.parametrize("change", [str.upper, lambda text: text[:-1], lambda text: text.replace("_", "-")])
def test_malformed_key_is_no_key(change):
    assert bearer(change(new_key()[0].reveal())) is None


def test_digits_of_other_scripts_are_no_digits():
    text = new_key()[0].reveal()

    assert parse_bearer([b"Bearer " + (text[:-1] + "\u0661").encode()]) is None


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
def test_scheme_is_read_in_any_case(scheme):
    text = new_key()[0].reveal()

    assert parse_bearer([f"{scheme} {text}".encode()]).reveal() == text


@given(st.lists(st.binary(max_size=400), max_size=3))
def test_no_header_breaks_the_parser(values):
    parse_bearer(values)


@given(st.text(max_size=40))
def test_what_is_no_prefix_is_refused_without_being_repeated(text):
    secret = f"lora_0123456789ab_{text}"

    with pytest.raises(ApiKeyPrefixError) as caught:
        parse_prefix(secret)

    assert secret not in str(caught.value)
    assert secret not in str(caught.value.hint)


@pytest.mark.parametrize("text", ["0123456789ab", "lora_0123456789ab"])
def test_prefix_is_read_with_and_without_its_mark(text):
    assert parse_prefix(text) == "0123456789ab"


def test_nothing_shows_a_secret():
    presented, kept = new_key()
    secret = presented.reveal().rpartition("_")[2]
    ring = KeyRing([kept], PEPPER)

    shown = " ".join(f"{one!r} {one} {[one]}" for one in (presented, kept, PEPPER, ring))

    assert secret not in shown
    assert bytes(range(32)).hex() not in shown
    assert repr(bytes(range(32))) not in shown


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("secret", [PEPPER, new_key()[0]], ids=["pepper", "key"])
def test_secrets_are_not_pickled(secret, act):
    with pytest.raises(TypeError):
        act(secret)


def test_ring_says_how_many_keys_it_holds():
    assert len(KeyRing([new_key()[1], new_key()[1]], PEPPER)) == 2


def test_unknown_keys_leave_nothing_behind():
    ring = KeyRing([new_key()[1]], PEPPER)

    for _ in range(1000):
        ring.find(new_key()[0], at=NOW)

    assert len(ring) == 1
