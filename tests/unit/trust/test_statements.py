"""Statements: their one form, what may be in them, and whether to believe who said so."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loractl_registry.stages import Stage, Verb, climb
from loractl_registry.trust import (
    MAY_SIGN,
    Act,
    AdmissionVerb,
    BaseRef,
    EvidenceType,
    IdentityVerb,
    Role,
    Signer,
    create_key,
    home_id,
    parse_statement,
    sign_envelope,
    sign_statement,
    verify_chain,
    verify_recorded,
    verify_statement,
)
from loractl_registry.trust.errors import (
    EnvelopeError,
    ExpiredError,
    ForeignHomeError,
    FromTheFutureError,
    KeyNotYetTrustedError,
    KeyOwnerError,
    KeyRevokedError,
    PredicateTypeError,
    RoleError,
    SignatureInvalidError,
    StatementError,
    TrustError,
    UnknownSignerError,
    WrongSignerError,
)
from loractl_registry.trust.fields import Strict, canonical_bytes, is_canonical
from loractl_registry.trust.predicates import LONGEST_BREAK_GLASS
from loractl_registry.trust.statements import PAYLOAD_TYPE, PredicateType

SECOND = timedelta(seconds=1)
LOOK_ALIKES = ["аcme", "acme\u200b", "ACME", "ácme", "acme ", "", "a" * 64, "acme\n", "-acme", "acme/.."]  # noqa: RUF001
KINDS = ["promotion", "approval", "break_glass", "step_down", "revocation"]


def wire(statement):
    return json.loads(canonical_bytes(statement))


def signed(home, body, *, by="ada"):
    return sign_envelope(rfc8785.dumps(body), PAYLOAD_TYPE, home.keys[by])


def believe(home, envelope, now=None):
    return verify_statement(envelope, home.trust, now or home.now)


@pytest.mark.parametrize("kind", KINDS)
def test_statement_is_read_back_as_it_was_signed(home, kind):
    statement = getattr(home, kind)()

    verified = believe(home, home.sign(statement))

    assert verified.statement == statement
    assert (verified.grant.identity, verified.key_ids) == ("ada", (home.keys["ada"].public.key_id,))
    assert (str(statement.ref), statement.content_digest) == ("bot@3", f"sha256:{'a' * 64}")


def test_statement_is_an_in_toto_statement(home):
    body = wire(home.promotion(reason="good"))

    assert body["_type"] == "https://in-toto.io/Statement/v1"
    assert body["predicateType"] == "https://loractl.dev/attestation/promotion/v1"
    assert body["subject"] == [{"name": "bot@3", "digest": {"sha256": "a" * 64}}]
    assert body["predicate"] == {
        "at": "2026-01-31T09:00:00Z",
        "base": {"digest": f"sha256:{'c' * 64}", "name": "tiny-moe"},
        "data_classes": ["public"],
        "evidence": [f"sha256:{'d' * 64}"],
        "expires": "2026-05-01T09:00:00Z",
        "from_stage": "candidate",
        "home": home.id,
        "policy": f"sha256:{'b' * 64}",
        "previous": home.chain.head,
        "reason": "good",
        "sequence": 2,
        "signer": {"identity": "ada", "key_id": home.keys["ada"].public.key_id},
        "tenants": ["acme"],
        "to_stage": "approved",
    }


def test_sets_have_one_order(home):
    statement = home.promotion(tenants=("b", "a", "b"), data_classes=("y", "x"))

    assert (statement.predicate.tenants, statement.predicate.data_classes) == (("a", "b"), ("x", "y"))


def test_time_zone_does_not_change_the_text(home):
    moment = datetime(2026, 1, 31, 10, 0, tzinfo=timezone(timedelta(hours=1)))

    assert wire(home.promotion(at=moment))["predicate"]["at"] == "2026-01-31T09:00:00Z"


@pytest.mark.parametrize(
    "at",
    [datetime(2026, 1, 31, 9), datetime(2026, 1, 31, 9, 0, 0, 1, tzinfo=UTC), "2026-01-31", 0],  # noqa: DTZ001
)
def test_time_that_is_not_utc_to_the_second_is_refused(home, at):
    with pytest.raises(ValidationError):
        home.promotion(at=at)


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alike_names_are_refused(home, name):
    for changes in ({"tenants": (name,)}, {"data_classes": (name,)}):
        with pytest.raises(ValidationError):
            home.promotion(**changes)
    for make in (
        lambda: BaseRef(name=name, digest=f"sha256:{'c' * 64}"),
        lambda: Signer(identity=name, key_id="a" * 64),
    ):
        with pytest.raises(ValidationError):
            make()


@pytest.mark.parametrize("name", ["bot", "bot@live", "bot@0", "bot@03", "bоt@3", "bot@3 ", "Bot@3", "bot@99999999999"])  # noqa: RUF001
def test_subject_is_one_version_by_an_ascii_name(home, name):
    body = wire(home.promotion())
    body["subject"][0]["name"] = name

    with pytest.raises(StatementError, match="name"):
        believe(home, signed(home, body))


@pytest.mark.parametrize("tenants", [("*", "acme"), ("**",)])
def test_every_tenant_stands_alone(home, tenants):
    assert home.promotion(tenants=("*",)).predicate.tenants == ("*",)
    with pytest.raises(ValidationError):
        home.promotion(tenants=tenants)


@given(st.sampled_from(Stage), st.sampled_from(Stage))
def test_promotion_is_one_rung(new_home, start, end):
    home = new_home()

    if climb(start, None) == (end,):
        assert home.promotion(from_stage=start, to_stage=end)
    else:
        with pytest.raises(ValidationError):
            home.promotion(from_stage=start, to_stage=end)


@pytest.mark.parametrize(
    ("verb", "start", "end"),
    [
        (Verb.REVOKE, Stage.LIVE, Stage.REVOKED),
        (Verb.DEMOTE, Stage.LIVE, Stage.CANDIDATE),
        (Verb.REJECT, Stage.APPROVED, Stage.REJECTED),
        (Verb.DEMOTE, Stage.REVOKED, Stage.APPROVED),
    ],
)
def test_step_down_goes_where_its_verb_leads(home, verb, start, end):
    with pytest.raises(ValidationError):
        home.step_down(verb=verb, from_stage=start, to_stage=end)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": None},
        {"reason": None},
        {"reason": ""},
        {"to_stage": Stage.CANDIDATE, "from_stage": Stage.DRAFT},
        {"from_stage": Stage.REVOKED},
        {"from_stage": Stage.REJECTED, "to_stage": Stage.LIVE},
    ],
    ids=str,
)
def test_break_glass_says_why_until_when_and_goes_up(home, changes):
    with pytest.raises(ValidationError):
        home.break_glass(**changes)


def test_break_glass_ends_by_itself_within_a_week(home):
    assert home.break_glass(expires=home.now + LONGEST_BREAK_GLASS, from_stage=Stage.DRAFT, to_stage=Stage.LIVE)
    for expires in (home.now, home.now + LONGEST_BREAK_GLASS + SECOND):
        with pytest.raises(ValidationError):
            home.break_glass(expires=expires)


def test_expiry_is_later_than_the_signature(home):
    with pytest.raises(ValidationError, match="later than at"):
        home.promotion(expires=home.now)


def test_statement_expires_at_the_second(home):
    expires = home.now + timedelta(days=1)
    for kind in ("promotion", "approval", "break_glass"):
        envelope = home.sign(getattr(home, kind)(expires=expires))

        believe(home, envelope, expires - SECOND)
        believe(home, envelope, expires - timedelta(microseconds=1))
        for now in (expires, expires + timedelta(microseconds=1), expires + SECOND):
            with pytest.raises(ExpiredError, match="expired at 2026-02-01T09:00:00Z"):
                believe(home, envelope, now)
        assert verify_recorded(envelope, home.trust, expires)


def test_statement_without_expiry_does_not_expire(home):
    believe(home, home.sign(home.promotion(expires=None)), home.now + timedelta(days=36500))


def test_clock_skew_is_borne_for_five_minutes(home):
    envelope = home.sign(home.promotion())

    believe(home, envelope, home.now - timedelta(minutes=5))
    with pytest.raises(FromTheFutureError, match="dated 2026-01-31T09:00:00Z"):
        believe(home, envelope, home.now - timedelta(minutes=5, microseconds=1))


@pytest.mark.parametrize(
    "key", ["home", "sequence", "previous", "at", "signer", "expires", "reason", "tenants", "policy"]
)
def test_missing_field_is_refused(home, key):
    body = wire(home.promotion())
    del body["predicate"][key]

    with pytest.raises(StatementError):
        believe(home, signed(home, body))


@pytest.mark.parametrize("path", [(), ("predicate",), ("predicate", "signer"), ("predicate", "base"), ("subject", 0)])
def test_unknown_field_is_refused(home, path):
    body = wire(home.promotion())
    place = body
    for step in path:
        place = place[step]
    place["extra"] = None

    with pytest.raises(StatementError):
        believe(home, signed(home, body))


@given(st.data())
def test_value_of_any_other_type_is_refused(new_home, data):
    home = new_home()
    body = wire(getattr(home, data.draw(st.sampled_from(KINDS)))())
    key = data.draw(st.sampled_from(sorted(body["predicate"])))
    value = data.draw(st.sampled_from([True, 2.5, -1, 0, "x", "", [], {}, [None], ["sha256:0"], {"identity": "ada"}]))
    same = {"tenants": [], "data_classes": [], "evidence": []}
    if same.get(key) == value or (key == "reason" and value == "x"):
        return
    body["predicate"][key] = value

    with pytest.raises(TrustError):
        believe(home, signed(home, body))


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace(b":", b": ", 1),
        lambda text: text + b"\n",
        lambda text: json.dumps(json.loads(text)).encode(),
        lambda text: text.replace(b'"acme"', b'"\\u0061cme"'),
        lambda text: text.replace(b'"sequence":2', b'"sequence":2.0'),
        lambda text: text.replace(b'"sequence":2', b'"sequence":2e0'),
        lambda text: text.replace(b'"sequence":2', b'"sequence":1,"sequence":2'),
        lambda text: text.replace(b'"tenants":["acme"]', b'"tenants":["acme","acme"]'),
        lambda text: text.replace(b"09:00:00Z", b"09:00:00+00:00", 1),
        lambda text: text.replace(b"09:00:00Z", b"09:00:00.000Z", 1),
        lambda text: text.replace(b"2026-01-31T", b"2026-02-31T", 1),
        lambda text: text.replace(b'"_type"', b'"type_"'),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.decode().encode("utf-16"),
        lambda text: b"[" + text + b"]",
        lambda text: b"",
        lambda text: b"null",
    ],
)
def test_every_other_text_of_a_statement_is_refused(home, rewrite):
    text = canonical_bytes(home.promotion())
    assert rewrite(text) != text

    with pytest.raises(StatementError):
        believe(home, sign_envelope(rewrite(text), PAYLOAD_TYPE, home.keys["ada"]))


@pytest.mark.parametrize(
    "found", [None, 1, [], {}, "", "https://slsa.dev/provenance/v1", "https://loractl.dev/attestation/promotion/v2"]
)
def test_unknown_predicate_type_is_refused_by_name(home, found):
    body = {**wire(home.promotion()), "predicateType": found}

    with pytest.raises(PredicateTypeError, match="is not known"):
        believe(home, signed(home, body))


def test_predicate_of_one_type_does_not_pass_for_another(home):
    made = {kind: wire(getattr(home, kind)()) for kind in KINDS}
    made["identity"] = json.loads(canonical_bytes(home.chain.statements[0].statement))
    same_fields = {"promotion", "approval", "break_glass"}
    for kind, body in made.items():
        for other in PredicateType:
            if kind == other.name.lower() or {kind, other.name.lower()} <= same_fields:
                continue
            with pytest.raises(TrustError):
                believe(home, signed(home, {**body, "predicateType": str(other)}))


def test_predicate_type_is_signed(home, envelopes):
    approval = home.sign(home.approval())
    payload = envelopes.payload(approval).replace(b"approval/v1", b"promotion/v1")

    with pytest.raises(SignatureInvalidError):
        believe(home, envelopes.with_payload(approval, payload))


@pytest.mark.parametrize("found", [None, "https://in-toto.io/Statement/v0.1", 1])
def test_other_statement_type_is_refused(home, found):
    with pytest.raises(StatementError, match="its type is"):
        believe(home, signed(home, {**wire(home.promotion()), "_type": found}))


@pytest.mark.parametrize("count", [0, 2])
def test_statement_has_one_subject(home, count):
    body = wire(home.promotion())
    body["subject"] *= count

    with pytest.raises(StatementError):
        believe(home, signed(home, body))


def test_no_flipped_bit_of_a_payload_passes(home, envelopes):
    envelope = home.sign(home.promotion())
    payload = envelopes.payload(envelope)
    for index in range(len(payload)):
        damaged = bytearray(payload)
        damaged[index] ^= 1 << (index % 8)
        with pytest.raises(SignatureInvalidError):
            believe(home, envelopes.with_payload(envelope, bytes(damaged)))


def test_no_flipped_bit_passes_even_if_signed_unless_it_is_another_statement(home):
    text = canonical_bytes(home.promotion())
    for index in range(len(text)):
        damaged = bytearray(text)
        damaged[index] ^= 1
        try:
            statement = parse_statement(bytes(damaged))
        except StatementError:
            continue
        assert canonical_bytes(statement) == bytes(damaged) != text


class _Field(Strict):
    text: str
    texts: tuple[str, ...]
    number: int | None
    is_so: bool


@given(
    st.builds(
        _Field,
        text=st.text(st.characters(exclude_categories=["Cs"])),
        texts=st.lists(st.text(st.characters(max_codepoint=0x9F)), max_size=3).map(tuple),
        number=st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
        is_so=st.booleans(),
    )
)
def test_quick_comparison_knows_the_text_that_the_library_writes_and_no_other(field):
    text = canonical_bytes(field)
    quick = json.dumps(field.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    assert quick == text
    assert is_canonical(field, text)
    assert not is_canonical(field, text + b" ")
    assert not is_canonical(field, json.dumps(json.loads(text)).encode())


def test_statement_cut_at_any_byte_is_refused(home):
    text = canonical_bytes(home.promotion())
    for end in range(len(text)):
        with pytest.raises(StatementError):
            parse_statement(text[:end])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(StatementError):
        parse_statement(noise)


def test_oversize_evidence_is_refused(home):
    with pytest.raises(ValidationError):
        home.promotion(evidence=tuple(f"sha256:{number:064x}" for number in range(1001)))
    envelope = home.sign(home.promotion(evidence=tuple(f"sha256:{number:064x}" for number in range(1000))))

    assert len(believe(home, envelope).statement.predicate.evidence) == 1000


@pytest.mark.parametrize(
    "digest", ["a" * 64, f"SHA256:{'a' * 64}", f"sha256:{'A' * 64}", "sha256:", f"sha256:{'a' * 65}"]
)
def test_digest_has_one_form(home, digest):
    with pytest.raises(ValidationError):
        home.promotion(policy=digest)


def test_statement_of_another_home_is_refused(home, new_home):
    other = new_home(nonce="f" * 32, key=home.keys["ada"])

    with pytest.raises(ForeignHomeError, match="belongs to home"):
        believe(home, other.sign(other.promotion()))


def test_checkpoint_does_not_pass_for_a_statement(home):
    with pytest.raises(EnvelopeError, match="payload type"):
        believe(home, home.checkpoint())


def test_unknown_key_is_refused(home, new_home):
    stranger = new_home()

    with pytest.raises(UnknownSignerError):
        believe(home, stranger.sign(stranger.promotion()))


def test_signer_must_be_the_one_that_it_names(home):
    home.trusts("bob", Role.REVIEWER)
    statement = home.promotion(by="bob")

    with pytest.raises(WrongSignerError):
        sign_statement(statement, home.keys["ada"])
    with pytest.raises(WrongSignerError, match="and that key has not signed it"):
        believe(home, sign_envelope(canonical_bytes(statement), PAYLOAD_TYPE, home.keys["ada"]))


def test_key_does_not_speak_for_another_identity(home):
    home.trusts("bob", Role.OPERATOR)
    signer = Signer(identity="ada", key_id=home.keys["bob"].public.key_id)

    with pytest.raises(KeyOwnerError, match="is not one of ada"):
        believe(home, home.sign(home.promotion(by="bob", signer=signer), by="bob"))


def test_key_speaks_only_after_it_was_trusted(home):
    home.trusts("bob", *Role)
    early = home.sign(home.promotion(by="bob", sequence=2, previous=home.chain.digests[0]), by="bob")

    believe(home, home.sign(home.promotion(by="bob"), by="bob"))
    with pytest.raises(KeyNotYetTrustedError, match="trusted since sequence 3, and this claims 2"):
        believe(home, early)


def test_key_speaks_only_before_it_was_revoked(home):
    home.trusts("bob", *Role)
    before = home.promotes(by="bob")
    home.revokes("bob")
    at, after = (home.sign(home.promotion(by="bob", sequence=sequence), by="bob") for sequence in (4, 5))

    believe(home, before)
    for envelope, sequence in ((at, 4), (after, 5)):
        with pytest.raises(KeyRevokedError, match=f"was revoked at sequence 4, and this claims {sequence}"):
            believe(home, envelope)


def test_revoked_key_that_backdates_is_found_by_the_chain(home):
    home.trusts("bob", *Role)
    home.promotes(by="bob")
    home.revokes("bob")
    forged = home.sign(home.promotion(by="bob", ref="evil@1", sequence=3, previous=home.chain.digests[1]), by="bob")

    believe(home, forged)
    with pytest.raises(TrustError, match=r"statement 4 of the chain: revoke of identity bob .* does not follow"):
        verify_chain([*home.envelopes[:2], forged, home.envelopes[3]], now=home.now)


STATEMENTS = {
    Act.ADD: ("addition", {}),
    Act.TAKE_INVENTORY: ("inventory", {}),
    Act.SIGN_FILES: ("file_signing", {}),
    Act.ADD_EVIDENCE: ("testimony", {}),
    Act.TO_CANDIDATE: ("promotion", {"from_stage": Stage.DRAFT, "to_stage": Stage.CANDIDATE}),
    Act.TO_APPROVED: ("promotion", {}),
    Act.TO_LIVE: ("promotion", {"from_stage": Stage.APPROVED, "to_stage": Stage.LIVE}),
    Act.APPROVE: ("approval", {}),
    Act.REJECT: ("step_down", {"verb": Verb.REJECT, "from_stage": Stage.CANDIDATE, "to_stage": Stage.REJECTED}),
    Act.DEMOTE: ("step_down", {}),
    Act.RETIRE: ("step_down", {"verb": Verb.RETIRE, "from_stage": Stage.LIVE, "to_stage": Stage.RETIRED}),
    Act.REVOKE: ("revocation", {}),
    Act.BREAK_GLASS: ("break_glass", {}),
    Act.ADMIT_BASE: ("base", {}),
    Act.WITHDRAW_BASE: ("base", {"verb": AdmissionVerb.WITHDRAW}),
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("act", STATEMENTS)
def test_role_allows_what_the_table_says(team, act, role):
    kind, changes = STATEMENTS[act]
    envelope = team.sign(getattr(team, kind)(by=f"the-{role}", **changes), by=f"the-{role}")

    if role in MAY_SIGN[act]:
        believe(team, envelope)
    else:
        with pytest.raises(RoleError, match=f"{act} of (bot@3|tiny-moe|registry).* and the-{role} is {role}"):
            believe(team, envelope)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"added_by": " ada"}, id="blanks-around-the-actor"),
        pytest.param({"added_by": "a\nb"}, id="two-lines"),
        pytest.param({"added_by": ""}, id="nobody"),
        pytest.param({"provenance": "sha256:1"}, id="no-digest"),
        pytest.param({"signatures": ("x",)}, id="no-digest-of-a-signature"),
    ],
)
def test_addition_says_who_and_what(home, changes):
    with pytest.raises(ValidationError):
        home.addition(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"type": EvidenceType.SCAN, "passed": None}, id="scan-without-a-verdict"),
        pytest.param({"type": EvidenceType.EFFECT, "passed": None}, id="effect-without-a-verdict"),
        pytest.param({"type": "rumour"}, id="unknown-type"),
        pytest.param({"kind": "two\nlines"}, id="kind-of-two-lines"),
        pytest.param({"kind": "x" * 101}, id="long-kind"),
        pytest.param({"metrics": "none"}, id="no-digest"),
        pytest.param({"passed": 1}, id="passed-is-a-number"),
    ],
)
def test_testimony_says_what_was_found(home, changes):
    with pytest.raises(ValidationError):
        home.testimony(**changes)


def test_every_act_is_in_the_table():
    assert set(MAY_SIGN) == set(Act)
    assert set(STATEMENTS) == set(Act) - {Act.CHANGE_IDENTITIES, Act.CHECKPOINT}


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OPERATOR])
def test_only_an_operator_changes_identities(team, role):
    team.key("eve")
    for verb, name, roles in ((IdentityVerb.TRUST, "eve", (role,)), (IdentityVerb.REVOKE, "ada", ())):
        envelope = team.sign(team.identity(f"the-{role}", name, verb, roles=roles), by=f"the-{role}")
        with pytest.raises(RoleError, match="it takes operator"):
            believe(team, envelope)


def test_public_key_must_be_that_of_the_subject(home):
    home.key("bob")
    body = wire(home.identity("ada", "bob", IdentityVerb.TRUST, roles=(Role.REVIEWER,)))
    for pem in (
        create_key().public.pem,
        home.keys["bob"].public.pem + "\n",
        "",
        home.keys["ada"].private_pem().decode(),
    ):
        body["predicate"]["public_key"] = pem
        with pytest.raises(StatementError) as caught:
            believe(home, signed(home, body))
        assert "PRIVATE" not in str(caught.value)


def test_home_id_follows_from_key_and_nonce(home):
    assert home.id == home_id(home.keys["ada"].public.key_id, home.chain.statements[0].statement.predicate.nonce)
    assert home_id("a" * 64, "0" * 32) != home_id("a" * 64, "1" * 32)


@pytest.mark.parametrize("reason", [" good", "a\x1bb", "x" * 2001, ""])
def test_reason_is_printable_and_has_one_form(home, reason):
    with pytest.raises(ValidationError):
        home.promotion(reason=reason)


@pytest.mark.parametrize("place", [{"sequence": 1}, {"previous": None}])
def test_only_the_first_statement_has_no_previous(home, place):
    with pytest.raises(ValidationError, match="previous must be null"):
        home.promotion(**place)


@pytest.mark.parametrize(
    "change",
    [
        {"roles": []},
        {"public_key": None},
        {"nonce": "0" * 32},
        {"verb": "create"},
        {"verb": "revoke"},
        {"roles": ["root"]},
    ],
    ids=str,
)
def test_identity_change_has_the_fields_of_its_verb(home, change):
    home.key("bob")
    body = wire(home.identity("ada", "bob", IdentityVerb.TRUST, roles=(Role.REVIEWER,)))
    body["predicate"] |= change

    with pytest.raises(StatementError):
        believe(home, signed(home, body))


def test_first_identity_is_not_created_by_another(home):
    body = wire(home.chain.statements[0].statement)
    body["subject"][0]["name"] = "eve"

    with pytest.raises(StatementError, match="must be signed by itself"):
        believe(home, signed(home, body))
