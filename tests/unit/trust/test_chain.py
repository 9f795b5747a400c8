"""The chain: who is trusted when, and every way to tell another history."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loractl_registry.trust import IdentityVerb, Role, create_key, sign_statement, verify_chain
from loractl_registry.trust.errors import (
    ChainError,
    ForeignHomeError,
    FromTheFutureError,
    IdentityError,
    KeyRevokedError,
    LastOperatorError,
    RoleError,
    SignatureInvalidError,
    StatementError,
    TrustError,
    UnknownSignerError,
)


def check(home, envelopes=None, /, **arguments):
    return verify_chain(home.envelopes if envelopes is None else envelopes, now=home.now, **arguments)


def test_chain_is_the_same_in_one_go_as_step_by_step(busy):
    assert check(busy) == busy.chain
    assert check(busy, home=busy.id).sequence == 6
    assert check(busy, busy.envelopes[4:], after=check(busy, busy.envelopes[:4])) == busy.chain


def test_what_has_expired_since_is_no_error_in_a_history(busy):
    assert verify_chain(busy.envelopes, now=busy.now + timedelta(days=1000)) == busy.chain


def test_every_statement_missing_is_found(busy):
    for place in range(5):
        with pytest.raises(TrustError):
            check(busy, [each for index, each in enumerate(busy.envelopes) if index != place])


def test_cut_end_is_whole_in_itself(busy):
    assert check(busy, busy.envelopes[:-1]).sequence == 5


def test_every_swap_of_two_is_found(busy):
    for first in range(6):
        for second in range(first + 1, 6):
            swapped = list(busy.envelopes)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            with pytest.raises(TrustError) as caught:
                check(busy, swapped)
            assert caught.value.place == first + 1


def test_every_replay_is_found(busy):
    for envelope in busy.envelopes:
        with pytest.raises(TrustError) as caught:
            check(busy, [*busy.envelopes, envelope])
        assert str(caught.value).startswith("statement 7 of the chain: ")


@given(st.data())
@settings(max_examples=60)
def test_any_other_order_or_selection_is_found(new_home, data):
    home = new_home()
    for number in range(1, 5):
        home.promotes(ref=f"bot@{number}")
    chosen = data.draw(st.lists(st.sampled_from(home.envelopes), max_size=7))

    if chosen and chosen == home.envelopes[: len(chosen)]:
        assert check(home, chosen).digests == home.chain.digests[: len(chosen)]
    else:
        with pytest.raises(TrustError):
            check(home, chosen)


def test_statement_signed_anew_breaks_the_link_of_the_next(busy):
    old = busy.chain.statements[2].statement
    predicate = old.predicate.model_copy(update={"tenants": ("rival",)})
    forged = sign_statement(old.model_copy(update={"predicate": predicate}), busy.keys["ada"])

    with pytest.raises(ChainError, match="does not follow"):
        check(busy, [*busy.envelopes[:2], forged, *busy.envelopes[3:]])


def test_signature_signed_anew_over_the_same_statement_is_the_same_history(busy):
    again = sign_statement(busy.chain.statements[2].statement, busy.keys["ada"])

    assert again != busy.envelopes[2]
    assert check(busy, [*busy.envelopes[:2], again, *busy.envelopes[3:]]).digests == busy.chain.digests


def test_signatures_of_two_statements_cannot_be_swapped(busy, envelopes):
    first, second = (envelopes.fields(busy.envelopes[index]) for index in (2, 5))
    mixed = envelopes.changed(busy.envelopes[2], signatures=second["signatures"])

    assert first["payload"] != second["payload"]
    with pytest.raises(SignatureInvalidError):
        check(busy, [*busy.envelopes[:2], mixed, *busy.envelopes[3:]])


def test_gap_in_the_sequence_is_refused(home):
    envelope = home.sign(home.promotion(sequence=3))

    with pytest.raises(ChainError, match="sequence 3 stands where sequence 2 must"):
        check(home, [envelope], after=home.chain)


def test_empty_chain_is_refused():
    with pytest.raises(ChainError, match="empty"):
        verify_chain([], now=None)


def test_chain_that_somebody_else_began_is_refused(busy, new_home):
    other = new_home()

    with pytest.raises(ForeignHomeError):
        check(busy, other.envelopes, home=busy.id)


def test_root_with_a_stolen_home_id_is_refused(home, new_home, envelopes):
    thief = new_home()
    payload = envelopes.payload(thief.envelopes[0]).replace(thief.id.encode(), home.id.encode())

    with pytest.raises(StatementError, match="home must follow"):
        check(home, [envelopes.with_payload(thief.envelopes[0], payload)])


def test_root_must_be_signed_by_itself(home, envelopes):
    other = create_key()
    with pytest.raises(UnknownSignerError):
        check(home, [sign_envelope_by(other, envelopes.payload(home.envelopes[0]))])


def sign_envelope_by(key, payload):
    from loractl_registry.trust import sign_envelope
    from loractl_registry.trust.statements import PAYLOAD_TYPE

    return sign_envelope(payload, PAYLOAD_TYPE, key)


def test_chain_begins_with_a_creation(busy):
    for envelope in busy.envelopes[1:]:
        with pytest.raises(StatementError, match="a chain begins with the creation"):
            check(busy, [envelope])


def test_second_creation_is_refused(home, new_home):
    with pytest.raises(TrustError):
        check(home, new_home(root="eve").envelopes, after=home.chain)


def test_root_must_be_an_operator(home):
    root = home.chain.statements[0].statement
    predicate = root.predicate.model_copy(update={"roles": (Role.REVIEWER,)})

    with pytest.raises(RoleError):
        check(home, [sign_statement(root.model_copy(update={"predicate": predicate}), home.keys["ada"])])


def test_time_does_not_run_backwards(home):
    home.promotes()
    late = home.promotion(at=home.now - timedelta(minutes=5))
    home.take(late, by="ada")

    with pytest.raises(ChainError, match="dated more than 0:05:00 before"):
        home.take(home.promotion(at=home.now - timedelta(minutes=10, seconds=1)), by="ada")


def test_nothing_in_a_chain_is_from_the_future(busy):
    with pytest.raises(FromTheFutureError) as caught:
        verify_chain(busy.envelopes, now=busy.now - timedelta(minutes=6))

    assert caught.value.place == 1


def test_grants_say_since_and_until(home):
    home.trusts("bob", Role.REVIEWER)
    home.trusts("bob", Role.REVIEWER, Role.OPERATOR)
    home.revokes("bob")

    ada, reviewer, both = home.trust.grants

    assert [(each.identity, each.since, each.until, each.is_revoked) for each in (ada, reviewer, both)] == [
        ("ada", 1, None, False),
        ("bob", 3, 3, False),
        ("bob", 4, 4, True),
    ]
    assert home.trust.identities == {"ada": (ada,), "bob": (reviewer, both)}
    assert [key.key_id for key in home.trust.keys] == [home.keys[name].public.key_id for name in ("ada", "bob")]
    assert home.trust.active(home.keys["bob"].public.key_id) is None


def test_role_counts_at_the_sequence_of_the_statement(home):
    home.trusts("bob", Role.REVIEWER)
    approved = home.promotes(by="bob")
    home.trusts("bob", Role.CONTRIBUTOR)

    assert check(home).statements[2].grant.roles == {Role.REVIEWER}
    with pytest.raises(RoleError):
        home.promotes(by="bob")
    assert approved in home.envelopes


def test_revoked_key_signs_nothing_more(home):
    home.trusts("bob", *Role)
    home.revokes("bob")

    with pytest.raises(KeyRevokedError, match="revoked at sequence 3, and this claims 4"):
        home.promotes(by="bob")


def test_last_operator_cannot_be_revoked_nor_lose_the_role(home):
    home.trusts("bob", Role.REVIEWER)

    with pytest.raises(LastOperatorError, match="ada holds the last key"):
        home.revokes("ada")
    with pytest.raises(LastOperatorError):
        home.trusts("ada", Role.REVIEWER)


def test_nobody_changes_the_key_that_they_sign_with(home):
    home.trusts("bob", Role.OPERATOR)

    with pytest.raises(IdentityError, match="signs with the key that would change"):
        home.revokes("bob", by="bob")
    home.revokes("ada", by="bob")
    with pytest.raises(LastOperatorError):
        home.revokes("bob", by="bob")


def test_key_is_replaced_by_trusting_a_new_one_first(home):
    home.trusts("new", *Role, of="ada")
    home.revokes("ada", by="new")

    assert [grant.until for grant in home.trust.identities["ada"]] == [3, None]
    home.promotes(by="new")


def test_revoked_key_is_never_trusted_again(home):
    home.trusts("bob", Role.REVIEWER)
    home.revokes("bob")

    with pytest.raises(IdentityError, match="was revoked"):
        home.trusts("bob", Role.REVIEWER)


def test_key_belongs_to_one_identity(home):
    home.trusts("bob", Role.REVIEWER)
    home.owners["bob"] = "bobby"

    with pytest.raises(IdentityError, match="belongs to bob"):
        home.trusts("bob", Role.REVIEWER)
    with pytest.raises(IdentityError, match="bobby has no trusted key"):
        home.revokes("bob")


def test_stranger_cannot_be_revoked(home):
    home.key("bob")

    with pytest.raises(IdentityError, match="has no trusted key"):
        home.revokes("bob")


def test_same_roles_again_are_refused(home):
    home.trusts("bob", Role.REVIEWER)

    with pytest.raises(IdentityError, match="has these roles already"):
        home.trusts("bob", Role.REVIEWER)


def test_creation_after_the_first_is_refused_by_the_fold(home):
    with pytest.raises(IdentityError, match="there is a first identity already"):
        home.trust.after(home.chain.statements[0].statement)


NAMES = ("ada", "bob", "eve", "kim")


@given(st.data())
@settings(max_examples=60)
def test_whatever_identities_do_there_is_an_operator_and_the_chain_tells_who(new_home, data):
    home = new_home()
    for name in NAMES[1:]:
        home.key(name)
    model = {"ada": set(Role)}
    gone = set()
    for _ in range(data.draw(st.integers(1, 12))):
        by, name = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(NAMES))
        roles = data.draw(st.sets(st.sampled_from(Role), max_size=2))
        verb = IdentityVerb.TRUST if roles else IdentityVerb.REVOKE
        may = Role.OPERATOR in model.get(by, ()) and by != name
        allowed = may and (name in model if not roles else name not in gone and model.get(name) != roles)
        try:
            home.take(home.identity(by, name, verb, roles=tuple(roles)), by=by)
        except TrustError:
            assert not allowed
            continue
        assert allowed
        if roles:
            model[name] = roles
        else:
            del model[name]
            gone.add(name)

    held = {grant.identity: set(grant.roles) for grant in home.trust.grants if grant.until is None}
    assert held == model
    assert any(Role.OPERATOR in roles for roles in held.values())
    assert check(home) == home.chain
