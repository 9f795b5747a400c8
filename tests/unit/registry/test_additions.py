"""Who added a version, from where and with which signatures is signed, and what disagrees with that is refused."""

import json
import shutil
import sys

import pytest
from support.registry import write_adapter
from support.tampering import WIPE, run_sql

from loractl_registry import Ref, Registry, Stage, signatures
from loractl_registry.ledger.errors import DisagreementError
from loractl_registry.provenance import ProvenanceInput, parse_dataset, provenance_digest
from loractl_registry.records import DataSetTerms
from loractl_registry.refusals import PolicyDeniedError, ProvenanceError, SelfApprovalError
from loractl_registry.signatures import FileSignatureError, SigningUnavailableError, sign_files, verify_files_again
from loractl_registry.signatures.errors import FileSignatureInvalidError, SignedFilesError
from loractl_registry.trust import create_key, load_public_key, parse_statement
from loractl_registry.trust.envelope import unverified_payload
from loractl_registry.trust.statements import PAYLOAD_TYPE

BOT = Ref("bot", 1)
FOUR_EYES = """
base.by = ["anyone"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["anyone"]
[adapter.approved.approvals]
count = 1
by = ["anyone"]
[adapter.live]
by = ["anyone"]
"""
SIGNED = f"""{FOUR_EYES}
[adapter.candidate.signatures]
count = 2
by = ["role:contributor"]
"""


@pytest.fixture
def statements(registry):
    """Return what the chain holds, as it was signed."""

    def _statements(kind):
        with registry._context.database.reading() as connection:
            rows = connection.execute("SELECT envelope FROM statement WHERE kind = ? ORDER BY sequence", (kind,))
            return [parse_statement(unverified_payload(envelope.encode(), PAYLOAD_TYPE)) for (envelope,) in rows]

    return _statements


@pytest.fixture
def bundles(registry):
    def _bundles():
        with registry._context.database.reading() as connection:
            return connection.execute("SELECT kind, digest, bundle FROM file_signature ORDER BY kind").fetchall()

    return _bundles


def test_addition_binds_ref_content_provenance_adder_and_signatures(registry, add, statements, bundles):
    version = add()

    (said,) = statements("addition")
    ((kind, digest, _),) = bundles()
    event = registry.history("bot")[-1]

    assert (str(said.ref), said.content_digest) == ("bot@1", version.digest)
    assert said.predicate.provenance == provenance_digest(version.provenance)
    assert (said.predicate.added_by, said.predicate.signer.identity) == ("ada", "ada")
    assert (kind, said.predicate.signatures) == ("key", (digest,))
    assert (event.action, event.detail["signer"], event.detail["signatures"]) == ("adapter.add", "ada", [digest])


def test_same_bytes_again_sign_nothing(registry, add):
    add()
    before = registry.identities.verify().statements

    add()

    assert registry.identities.verify().statements == before


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        pytest.param(
            "UPDATE version SET added_by = 'eve'", "added by eve, and its addition was signed as ada", id="adder"
        ),
        pytest.param(
            "UPDATE version SET provenance = json_set(provenance, '$.licence', 'MIT')", "provenance", id="licence"
        ),
        pytest.param(
            "UPDATE version SET digest = (SELECT digest FROM version WHERE name = 'other')", "content", id="content"
        ),
        pytest.param("DELETE FROM file_signature", "is gone", id="signature-removed"),
        pytest.param(
            "UPDATE file_signature SET bundle = replace(bundle, 'a', 'b')", "is another", id="signature-edited"
        ),
    ],
)
def test_row_that_disagrees_with_its_addition_is_refused_and_named(registry, add, home, clock, attack, said):
    add()
    add("other", 1)
    registry.promote(BOT, actor="ada", to=Stage.APPROVED)
    run_sql(home, f"{attack} WHERE name = 'bot'" if attack.startswith("UPDATE version") else attack)

    with Registry.open(home, clock=clock) as fresh:
        snapshot = fresh.snapshot("tiny-moe")
        with pytest.raises(DisagreementError, match="bot@1"):
            fresh.promote(BOT, actor="ada", to=Stage.LIVE)
        fresh.revoke(BOT, actor="ada", reason="edited")

    assert snapshot.versions == ()
    assert said in snapshot.refused[registry.version(BOT).ref]


def test_addition_cannot_be_taken_over_by_a_second_one(registry, add, home, statements):
    add()
    (said,) = statements("addition")
    run_sql(home, "UPDATE version SET added_by = 'eve'")

    problems = registry.identities.verify().problems

    assert len(problems) == 1
    assert "its addition was signed as ada" in problems[0]
    assert said.predicate.sequence == 4


def test_verify_reports_a_signature_that_is_gone(registry, add, home):
    add()
    assert registry.verify()[0].is_intact
    run_sql(home, "DELETE FROM file_signature")

    (found,) = registry.verify()

    assert not found.is_intact
    assert found.damaged[0].path.startswith("signature sha256:")


def test_model_signing_itself_verifies_what_add_signed(registry, add, home, bundles):
    version = add()
    key = load_public_key(home / "keys/ada.pem.pub")
    ((_, digest, bundle),) = bundles()

    found = verify_files_again(version.path, registry.manifest(BOT), bundle.encode(), [key])

    assert (found.signer, found.digest) == (key.key_id, digest)


def test_files_that_cannot_be_signed_are_not_added(registry, base, tmp_path, monkeypatch):
    monkeypatch.delattr(signatures, "_library", raising=False)
    monkeypatch.setitem(sys.modules, "loractl_registry.signatures._library", None)

    with pytest.raises(SigningUnavailableError):
        registry.add("bot", str(write_adapter(tmp_path / "adapter")), actor="ada")

    assert registry.versions() == ()
    assert registry.fsck(repair=False, actor="ada").findings == ()


@pytest.fixture
def shipped(registry, base, add, tmp_path):
    """Write an adapter that its author, whose key is returned, has signed, in a home that has an identity."""
    add("first", 9)

    def _shipped(key=None, seed=1):
        (tmp_path / "shipped/model.sig").unlink(missing_ok=True)
        folder = write_adapter(tmp_path / "shipped", seed=seed)
        scratch = registry.add("scratch", str(folder), actor="ada").version
        key = key or create_key()
        (folder / "model.sig").write_bytes(sign_files(folder, registry.manifest(scratch.ref), key))
        return folder, key

    return _shipped


def test_signature_of_a_stranger_is_kept_and_counts_for_nobody(registry, shipped, home, bundles):
    folder, _ = shipped()

    registry.add("bot", str(folder), actor="ada")

    found = registry.file_signatures(BOT)
    assert sorted((one.kind, one.is_verified, one.identity) for one in found) == [
        ("key", True, "ada"),
        ("shipped", False, None),
    ]
    (home / "policy.toml").write_text(SIGNED)
    with pytest.raises(PolicyDeniedError, match=r"1 of 2 count.*adapter\.candidate\.signatures"):
        registry.promote(BOT, actor="ada")


def test_signature_counts_once_its_signer_is_trusted_and_no_more_once_revoked(registry, shipped, home, tmp_path, clock):
    folder, key = shipped()
    registry.add("bot", str(folder), actor="ada")
    (tmp_path / "author.pub").write_text(key.public.pem)
    registry.identities.trust("author", tmp_path / "author.pub", ["contributor"], actor="ada")
    (home / "policy.toml").write_text(SIGNED)

    registry.promote(BOT, actor="ada")
    registry.demote(BOT, actor="ada", reason="again")
    registry.identities.revoke("author", actor="ada", reason="left")

    with pytest.raises(PolicyDeniedError, match=r"1 of 2 count.*adapter\.candidate\.signatures"):
        registry.promote(BOT, actor="ada")


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize(
    ("harm", "error", "named"),
    [
        pytest.param(
            lambda folder: write_adapter(folder, seed=5),
            SignedFilesError,
            "adapter_model.safetensors",
            id="other-weights",
        ),
        pytest.param(
            lambda folder: (folder / "notes.txt").write_text("x"), SignedFilesError, "notes.txt", id="unsigned"
        ),
        pytest.param(
            lambda folder: (folder / "model.sig").write_text("{}"), FileSignatureError, "media type", id="empty"
        ),
    ],
)
def test_signature_that_does_not_fit_refuses_the_add(registry, shipped, tmp_path, harm, error, named, is_trusted):
    folder, key = shipped()
    if is_trusted:
        (tmp_path / "author.pub").write_text(key.public.pem)
        registry.identities.trust("author", tmp_path / "author.pub", ["contributor"], actor="ada")
    harm(folder)

    with pytest.raises(error, match=named):
        registry.add("bot", str(folder), actor="ada")

    assert [str(version.ref) for version in registry.versions()] == ["first@1", "scratch@1"]
    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_signature_by_a_trusted_key_that_does_not_verify_refuses_the_add(registry, shipped, tmp_path):
    folder, key = shipped()
    (tmp_path / "author.pub").write_text(key.public.pem)
    registry.identities.trust("author", tmp_path / "author.pub", ["contributor"], actor="ada")
    held = json.loads((folder / "model.sig").read_bytes())
    forged, _ = shipped(seed=2)
    other = json.loads((forged / "model.sig").read_bytes())
    held["dsseEnvelope"]["signatures"][0]["sig"] = other["dsseEnvelope"]["signatures"][0]["sig"]
    write_adapter(folder, seed=1)
    (folder / "model.sig").write_text(json.dumps(held))

    with pytest.raises(FileSignatureInvalidError):
        registry.add("bot", str(folder), actor="ada")


def older(home):
    """Turn a home into one from before anything was signed."""
    run_sql(home, *WIPE, "DELETE FROM file_signature")
    (home / "checkpoint.json").unlink()
    shutil.rmtree(home / "keys")


def test_version_from_before_additions_were_signed_stays_usable(registry, add, home, clock):
    add()
    registry.promote(BOT, actor="ada", to=Stage.LIVE)
    older(home)

    with Registry.open(home, clock=clock) as again:
        again.identities.create("grace", actor="grace")
        assert [str(version.ref) for version in again.snapshot("tiny-moe").versions] == ["bot@1"]
        assert again.verify()[0].is_intact
        again.demote(BOT, actor="grace", reason="x")
        again.promote(BOT, actor="grace", to=Stage.LIVE)


def test_four_eyes_cannot_be_told_of_a_version_that_nobody_signed_for(registry, add, home, clock):
    add()
    registry.promote(BOT, actor="ada")
    older(home)

    with Registry.open(home, clock=clock) as again:
        again.identities.create("grace", actor="grace")
        (home / "policy.toml").write_text(FOUR_EYES)
        again.approve(BOT, actor="grace", reason="read it")
        with pytest.raises(PolicyDeniedError, match="nobody knows who added it") as caught:
            again.promote(BOT, actor="grace")

    assert "under another name" in caught.value.hint


def test_four_eyes_compares_identities_whatever_the_actor_is_called(registry, add, home):
    add()
    registry.promote(BOT, actor="ada")
    (home / "policy.toml").write_text(FOUR_EYES)

    with pytest.raises(SelfApprovalError, match="ada added it"):
        registry.approve(BOT, actor="somebody else", reason="mine")


def test_imported_version_is_signed_by_who_imports_it(registry, add, tmp_path, clock):
    add(provenance=ProvenanceInput(datasets=(DataSetTerms("tickets", "MIT", "internal"),)))
    registry.export([BOT], tmp_path / "bots.tar")

    with Registry.open(tmp_path / "elsewhere", clock=clock) as elsewhere:
        (added,) = elsewhere.import_archive(tmp_path / "bots.tar", actor="grace")
        found = elsewhere.file_signatures(BOT)
        problems = elsewhere.identities.verify().problems

    assert added.version.provenance.dataset_terms == (DataSetTerms("tickets", "MIT", "internal"),)
    assert [(one.identity, one.is_verified) for one in found] == [("grace", True)]
    assert problems == ()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("tickets", DataSetTerms("tickets")),
        ("acme/tickets-2026,licence=CC-BY-4.0", DataSetTerms("acme/tickets-2026", "CC-BY-4.0")),
        ("tickets,class=internal,licence=MIT", DataSetTerms("tickets", "MIT", "internal")),
    ],
)
def test_data_set_is_read_with_its_terms(text, terms):
    assert parse_dataset(text) == terms


@pytest.mark.parametrize(
    "text", ["", ",class=internal", "x,colour=red", "x,class=Top Secret", "x,class=a,class=b", "x,"]
)
def test_data_set_that_cannot_be_read_is_refused(text):
    with pytest.raises(ProvenanceError) as caught:
        parse_dataset(text)

    assert caught.value.hint


def test_terms_of_data_sets_come_from_file_and_command_line(registry, add, tmp_path):
    file = tmp_path / "provenance.json"
    file.write_text(json.dumps({"datasets": ["plain", {"name": "tickets", "licence": "MIT", "class": "public"}]}))
    said = ProvenanceInput(trained_on=("web",), datasets=(DataSetTerms("tickets", None, "internal"),), file=file)

    provenance = add(provenance=said).provenance

    assert provenance.datasets == ("plain", "tickets", "web")
    assert provenance.dataset_terms == (DataSetTerms("tickets", "MIT", "internal"),)
    assert registry.version(BOT).provenance == provenance


def test_number_without_end_in_provenance_is_refused(add, tmp_path):
    (tmp_path / "provenance.json").write_text('{"loss": 1e999}')

    with pytest.raises(ProvenanceError, match="too large"):
        add(provenance=ProvenanceInput(file=tmp_path / "provenance.json"))
