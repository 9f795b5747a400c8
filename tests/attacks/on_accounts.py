"""Attacks on accounts that sign without a key, with a sigstore of our own: real certificates, logs and proofs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta

import rfc8785
from attacks.acting import Run, Send, run
from attacks.declaring import Act, Attack, Deed, Has, Threat
from attacks.forging import append, promotion_of, stored
from attacks.on_store import MISSING, flip
from attacks.scene import Scene, revoking
from support.local_sigstore import LocalSigstore
from support.tampering import copied, restored, run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry.hashing import hash_files
from loractl_registry.records import Manifest
from loractl_registry.signatures import _library
from loractl_registry.trust import Account
from loractl_registry.trust.statements import digest_of

LOCAL, EVIL = LocalSigstore(), LocalSigstore()
KIM, ISSUER = "https://git.example.org/o/r/.workflows/release.yml@refs/heads/main", "https://tokens.example.org"
ACCOUNT = Account(KIM, ISSUER, LOCAL.trusted_root)
Bundle = dict[str, dict[str, object]]


def _trusted_for(*roles: str) -> Deed:
    """Have ada trust the account kim, and take a version to the rung before live."""

    def given(scene: Scene) -> None:
        scene.key_file = scene.root / "trusted_root.json"
        scene.key_file.write_text(LOCAL.trusted_root)
        with scene.opened() as ada:
            ada.identities.trust_account("kim", KIM, ISSUER, roles, actor="ada", trusted_root=scene.key_file)
        with Registry.open(scene.home, identity="rita", clock=scene.clock) as rita:
            rita.approve(Ref("sly", 1), actor="rita", reason="read its answers")
            rita.promote(Ref("sly", 1), actor="rita", to=Stage.APPROVED)

    return given


def _bundled(
    *,
    change: Callable[[Bundle], object] = lambda bundle: bundle,
    by: LocalSigstore = LOCAL,
    late_s: int = 0,
    **who: str,
) -> Deed:
    """Append that sly went live, as kim would sign it, and make its row say so."""

    def spoil(scene: Scene) -> None:
        body = promotion_of(scene, "sly@1")
        signer = {"identity": "kim", "key_id": ACCOUNT.key_id}
        payload = rfc8785.dumps(body | {"predicate": dict(body["predicate"]) | {"signer": signer}})
        at = scene.clock()
        named = {"subject": KIM, "issuer": ISSUER} | who
        bundle = json.loads(by.bundle(payload, **named, at=at, logged_at=at + timedelta(seconds=late_s)))
        change(bundle)
        append(scene, json.dumps(bundle).encode(), "sly@1")
        run_sql(scene.home, "UPDATE version SET stage = 'live' WHERE name = 'sly'")

    return spoil


def _entry(**changes: object) -> Callable[[Bundle], object]:
    return lambda bundle: bundle["verificationMaterial"]["tlogEntries"][0].update(changes)


def _without_entry(bundle: Bundle) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = []


def _log_edited(bundle: Bundle) -> None:
    """Say that another payload was logged; the proof stays."""
    entry = bundle["verificationMaterial"]["tlogEntries"][0]
    body = json.loads(base64.b64decode(entry["canonicalizedBody"]))
    body["spec"]["payloadHash"]["value"] = "0" * 64
    entry["canonicalizedBody"] = base64.b64encode(rfc8785.dumps(body)).decode()


def _other_payload(bundle: Bundle) -> None:
    """Put a statement about another version into the bundle."""
    body = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    body["predicate"]["reason"] = "kim never said so"
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(rfc8785.dumps(body)).decode()


def _root_replaced(scene: Scene) -> None:
    """Edit the root that was pinned, in the statement that pinned it, and sign under the new one."""
    place = next(one for one in stored(scene.home) if one.subject == "kim")
    envelope, body = json.loads(place.envelope), place.body
    body["predicate"]["trusted_root"] = EVIL.trusted_root
    envelope["payload"] = base64.b64encode(rfc8785.dumps(body)).decode()
    text = json.dumps(envelope).replace("'", "''")
    run_sql(scene.home, f"UPDATE statement SET envelope = '{text}' WHERE sequence = {place.sequence}")
    _bundled(by=EVIL)(scene)


def _revoked(scene: Scene) -> None:
    revoking("kim")(scene)
    _bundled()(scene)


def _by_oscar(scene: Scene) -> None:
    with scene.opened("oscar") as oscar:
        oscar.promote(Ref("sly", 1), actor="oscar")


OPERATOR = _trusted_for("operator")
ASK = Send("sly")


def account(
    id_: str, deed: str, spoil: Deed, says: str, *, act: Act = ASK, code: str = MISSING, given: Deed = OPERATOR, **more
) -> Attack:
    """Return an attack with what an account may have signed; by default a promotion, in the chain and in the row."""
    has = more.pop("has", Has.DATABASE)
    return Attack(
        id_, Threat.KEYLESS, has, deed, spoil, act, code, says, given=given, honest=more.pop("honest", SIGNED)
    )


SIGNED = _bundled()
PROMOTIONS = (
    account(
        "bundle-of-another-issuer",
        "Append a promotion by an account of the same name that another provider vouches for",
        _bundled(issuer="https://tokens.evil.example"),
        "sigstore does not find it signed by",
    ),
    account(
        "bundle-of-another-subject",
        "Append one by another workflow of the same provider",
        _bundled(subject=KIM.replace("main", "feature")),
        "SANs do not match",
    ),
    account(
        "bundle-after-its-certificate",
        "Append one that was signed an hour after its certificate had expired",
        _bundled(late_s=3600),
        "certificate chain",
    ),
    account(
        "bundle-not-logged", "Append one without its entry in the log", _bundled(change=_without_entry), "log entry"
    ),
    account(
        "bundle-logged-as-something-else",
        "Append one whose entry in the log is over something else",
        _bundled(change=_log_edited),
        "inclusion proof",
    ),
    account(
        "bundle-logged-at-another-time",
        "Append one whose time of signing was edited",
        _bundled(change=_entry(integratedTime="1767225600")),
        "certificate chain",
    ),
    account(
        "bundle-with-another-payload",
        "Put another statement into a bundle",
        _bundled(change=_other_payload),
        "DSSE: invalid signature",
    ),
    account(
        "bundle-of-another-sigstore",
        "Append one from a sigstore of the attacker's, which certifies anything",
        _bundled(by=EVIL),
        "certificate chain",
    ),
    account(
        "pinned-root-replaced",
        "Replace the root of trust that was pinned, and append one under the new root",
        _root_replaced,
        "its signature is not by key",
    ),
    account(
        "bundle-by-a-revoked-account",
        "Append one by an account that was revoked",
        _revoked,
        "revoked at sequence",
    ),
    account(
        "bundle-beyond-its-role",
        "Take a version live as an account that is trusted to review",
        _bundled(),
        "it takes operator, and kim is reviewer",
        given=_trusted_for("reviewer"),
        act=ASK,
        honest=_by_oscar,
    ),
)


def _checkpoint(by: LocalSigstore = LOCAL, *, kind: str = "checkpoint", **said: object) -> Deed:
    """Put a checkpoint of the head in place, as kim would sign it."""

    def spoil(scene: Scene) -> None:
        last = stored(scene.home)[-1]
        home, signer = last.body["predicate"]["home"], {"identity": "kim", "key_id": ACCOUNT.key_id}
        at, head = last.body["predicate"]["at"], digest_of(last.payload)
        held = {"version": 1, "home": home, "sequence": last.sequence, "head": head, "at": at, "signer": signer}
        body = {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": f"https://loractl.dev/attestation/{kind}/v1",
            "subject": [{"name": "registry", "digest": {"sha256": home}}],
            "predicate": held | said,
        }
        (scene.home / "checkpoint.json").write_bytes(by.bundle(rfc8785.dumps(body), KIM, ISSUER))

    return spoil


def _older(scene: Scene) -> None:
    """Put the database of before kim's promotion back."""
    before = copied(scene.home, scene.root / "before.db")
    _bundled()(scene)
    _checkpoint()(scene)
    restored(scene.home, before)


def checkpoint(id_: str, deed: str, spoil: Deed, says: str) -> Attack:
    """Return an attack on the checkpoint of a home in which an account signs."""
    return account(id_, deed, spoil, says, act=Send("bot"), has=Has.HOME, honest=_checkpoint())


CHECKPOINTS = (
    checkpoint(
        "database-of-before-an-account-signed",
        "Put back the database of before an account took a version live",
        _older,
        "a signed checkpoint has seen",
    ),
    checkpoint(
        "checkpoint-of-another-sigstore",
        "Write a checkpoint in the account's name, from a sigstore of the attacker's",
        _checkpoint(EVIL),
        "certificate chain",
    ),
    checkpoint(
        "checkpoint-of-another-head",
        "Write one of another head, signed by the account elsewhere",
        _checkpoint(head=f"sha256:{'0' * 64}"),
        "two histories exist",
    ),
    checkpoint(
        "statement-as-checkpoint",
        "Put a bundle of another kind in its place",
        _checkpoint(kind="promotion"),
        "predicateType",
    ),
)


def _ships(by: LocalSigstore) -> Deed:
    def spoil(scene: Scene) -> None:
        manifest = Manifest(hash_files(scene.folder, ["adapter_config.json", "adapter_model.safetensors"]))
        payload = _library.statement_of(_library.payload_from(manifest, "novel"))
        (scene.folder / "model.sig").write_bytes(by.bundle(payload, KIM, ISSUER))

    return spoil


def _ships_others(scene: Scene) -> None:
    _ships(LOCAL)(scene)
    flip(scene.folder / "adapter_model.safetensors")


ADD: Run = run("add {name} {folder}")
FILES = (
    account(
        "keyless-signature-of-another-sigstore",
        "Ship a `model.sig` in a trusted account's name, from a sigstore of the attacker's",
        _ships(EVIL),
        "certificate chain",
        has=Has.FILES,
        act=ADD,
        code="signatures.keyless_invalid",
        honest=_ships(LOCAL),
    ),
    account(
        "keyless-signature-over-other-bytes",
        "Ship a trusted account's `model.sig` with weights that it is not over",
        _ships_others,
        "adapter_model.safetensors",
        has=Has.FILES,
        act=ADD,
        code="signatures.digest",
        honest=_ships(LOCAL),
    ),
)

TRUST_KIM = run(f"identity trust kim --account {KIM} --issuer {ISSUER} --role operator --trusted-root {{key}}")


def _offered(text: str) -> Deed:
    def spoil(scene: Scene) -> None:
        scene.key_file = scene.root / "trusted_root.json"
        scene.key_file.write_text(text)

    return spoil


def _as_rita(scene: Scene) -> None:
    _offered(LOCAL.trusted_root)(scene)
    scene.identity = "rita"


TRUSTED = (
    Attack(
        "account-trusted-by-a-reviewer",
        Threat.KEYLESS,
        Has.LOGIN,
        "As a reviewer, trust an account of one's own as an operator",
        _as_rita,
        TRUST_KIM,
        "trust.role",
        "rita",
        honest=_offered(LOCAL.trusted_root),
    ),
    Attack(
        "root-without-logs",
        Threat.KEYLESS,
        Has.FILES,
        "Offer a root of trust that names no log",
        _offered(json.dumps(json.loads(LOCAL.trusted_root) | {"tlogs": []})),
        TRUST_KIM,
        "trust.trusted_root",
        "Rekor keys",
        honest=_offered(LOCAL.trusted_root),
    ),
)
ATTACKS = (*PROMOTIONS, *CHECKPOINTS, *FILES, *TRUSTED)
