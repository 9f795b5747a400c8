"""Attacks on the facts that a policy judges (who added it, signatures, evidence), and on break-glass."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

from attacks.acting import AddFromHub, Run, Send, run
from attacks.declaring import Act, Attack, Deed, Has, Threat
from attacks.forging import append, promotion_of, signed, stored
from attacks.on_effect import CLIMB
from attacks.on_people import APPROVE, as_
from attacks.on_store import MISSING, VERIFIED, flip, sql
from attacks.scene import REVIEWED, Scene, revoking

from loractl_registry import Ref, Stage
from loractl_registry.evidence import EvidenceType
from loractl_registry.hashing import hash_files
from loractl_registry.records import Manifest
from loractl_registry.signatures import sign_files
from loractl_registry.trust import load_key
from loractl_registry.trust.statements import digest_of

DISAGREES = "registry.disagreement"
ASK, PROMOTE = Send("bot"), run("promote sly@1", by="rita")
EVALUATED = REVIEWED.replace(
    "[adapter.live]",
    '[[adapter.approved.evidence]]\ntype = "eval"\nmetrics = { acc = { min = 0.9 } }\n[adapter.live]',
)
WITH_GLASS = REVIEWED + '[adapter.break_glass]\nby = ["role:operator"]\nhours = 4\n'
TWO_SIGN = REVIEWED.replace(
    "[adapter.approved]", '[adapter.candidate.signatures]\ncount = 2\nby = ["role:contributor"]\n[adapter.approved]', 1
)


def fact(id_: str, has: Has, deed: str, spoil: Deed, act: Act, code: str, says: str, **more: Deed) -> Attack:
    """Return an attack on a fact."""
    return Attack(id_, Threat.FACTS, has, deed, spoil, act, code, says, **more)


def both(*deeds: Deed) -> Deed:
    """Do one deed after the other."""

    def spoil(scene: Scene) -> None:
        for deed in deeds:
            deed(scene)

    return spoil


def _added_by_carl_again(scene: Scene) -> None:
    """Have carl sign that he added what ada did."""
    ours = next(one.body for one in stored(scene.home) if (one.kind, one.subject) == ("addition", "sly@1"))
    chain = stored(scene.home)
    place = {"sequence": len(chain) + 1, "previous": digest_of(chain[-1].payload), "added_by": "carl"}
    body = ours | {"predicate": dict(ours["predicate"]) | place | {"at": chain[-1].body["predicate"]["at"]}}
    append(scene, signed(scene, body, "carl"), "sly@1", kind="addition")


def _shipped_by(name: str) -> Deed:
    """Put a signature over the adapter's files beside them."""

    def spoil(scene: Scene) -> None:
        manifest = Manifest(hash_files(scene.folder, ["adapter_config.json", "adapter_model.safetensors"]))
        (scene.folder / "model.sig").write_bytes(sign_files(scene.folder, manifest, load_key(scene.key(name))))

    return spoil


def _signature_edited(scene: Scene) -> None:
    """Let the signature say that the model has another name."""
    path = scene.folder / "model.sig"
    held = json.loads(path.read_text())
    payload = base64.b64decode(held["dsseEnvelope"]["payload"]).replace(b'"novel"', b'"other"')
    held["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(held))


def _signature_taken_from(subject: str) -> Deed:
    """Have carl's key name a signature that is over the files of `subject`."""

    def spoil(scene: Scene) -> None:
        run(f"sign {subject}", by="carl")(scene)
        body, last = stored(scene.home)[-1].body, stored(scene.home)[-1]
        place = {"sequence": last.sequence + 1, "previous": digest_of(last.payload)}
        raw = next(one for one in stored(scene.home) if one.subject == "raw@1").body["subject"]
        append(scene, signed(scene, body | {"subject": raw, "predicate": body["predicate"] | place}, "carl"), "raw@1")

    return spoil


def _two_must_sign(scene: Scene) -> None:
    scene.policy.write_text(TWO_SIGN)


def _results(text: str) -> Deed:
    return lambda scene: scene.file.write_text(text)


def _evaluated(acc: float) -> Deed:
    """Ask for an accuracy of 0.9, have rita approve, and have carl give an evaluation."""

    def spoil(scene: Scene) -> None:
        scene.policy.write_text(EVALUATED)
        scene.file.write_text(json.dumps({"acc": acc}))
        with scene.opened("carl") as carl, scene.opened("rita") as rita:
            carl.evidence.add(Ref("sly", 1), scene.file, EvidenceType.EVAL, actor="carl")
            rita.approve(Ref("sly", 1), actor="rita", reason="read its answers")

    return spoil


GOOD, POOR = _evaluated(0.95), _evaluated(0.2)
EVIDENCE = run("evidence add sly@1 {file} --type eval", by="carl")
GIVEN = _results('{"acc": 0.5}')
ADD_SIGNED = Run(("add novel {folder}",))
DENIED = "registry.policy_denied"
FACTS = (
    fact(
        "adder-edited",
        Has.DATABASE,
        "Write another name over that of the one who added a version, who then approves it",
        both(sql("UPDATE version SET added_by = 'somebody' WHERE name = 'sly'"), as_("ada")),
        APPROVE,
        DISAGREES,
        "added by somebody, and its addition was signed as ada",
    ),
    fact(
        "addition-taken-over",
        Has.KEY,
        "Sign with another's key that it was them who added it, and approve it",
        both(_added_by_carl_again, as_("ada")),
        APPROVE,
        "registry.self_approval",
        "ada added it",
    ),
    fact(
        "provenance-edited",
        Has.DATABASE,
        "Give the live version another licence",
        sql("UPDATE version SET provenance = json_set(provenance, '$.licence', 'MIT') WHERE name = 'bot'"),
        ASK,
        MISSING,
        "provenance",
    ),
    fact(
        "file-signature-removed",
        Has.DATABASE,
        "Remove the signature over its files",
        sql("DELETE FROM file_signature"),
        ASK,
        MISSING,
        "is gone",
    ),
    fact(
        "file-signature-edited",
        Has.DATABASE,
        "Edit that signature",
        sql("UPDATE file_signature SET bundle = replace(bundle, 'a', 'b')"),
        ASK,
        MISSING,
        "is another",
    ),
    fact(
        "shipped-signature-over-other-bytes",
        Has.FILES,
        "Ship a `model.sig` with weights that it is not over",
        lambda scene: flip(scene.folder / "adapter_model.safetensors"),
        ADD_SIGNED,
        "signatures.digest",
        "adapter_model.safetensors",
        given=_shipped_by("carl"),
    ),
    fact(
        "hub-signature-over-other-bytes",
        Has.FILES,
        "Publish a `model.sig` in a Hub repository with weights that it is not over",
        lambda scene: flip(scene.folder / "adapter_model.safetensors"),
        AddFromHub(),
        "signatures.digest",
        "adapter_model.safetensors",
        given=_shipped_by("carl"),
    ),
    fact(
        "hub-signature-edited",
        Has.FILES,
        "Edit what the `model.sig` of a Hub repository lists",
        _signature_edited,
        AddFromHub(),
        "signatures.invalid",
        "it is not by key",
        given=_shipped_by("carl"),
    ),
    fact(
        "shipped-signature-over-fewer-files",
        Has.FILES,
        "Put a file into the folder that its `model.sig` does not list",
        lambda scene: (scene.folder / "notes.txt").write_text("hello"),
        ADD_SIGNED,
        "signatures.unsigned_file",
        "notes.txt",
        given=_shipped_by("carl"),
    ),
    fact(
        "shipped-signature-that-is-none",
        Has.FILES,
        "Ship an empty `model.sig`",
        lambda scene: (scene.folder / "model.sig").write_text("{}"),
        ADD_SIGNED,
        "signatures.bundle",
        "media type",
        given=_shipped_by("carl"),
    ),
    fact(
        "signature-of-a-stranger",
        Has.FILES,
        "Ship a signature by a key that nobody trusts, where the policy asks for a second signer",
        _shipped_by("eve"),
        CLIMB,
        DENIED,
        "1 of 2 count",
        given=_two_must_sign,
        honest=_shipped_by("carl"),
    ),
    fact(
        "signature-by-the-same-person-again",
        Has.LOGIN,
        "Sign once more what one has added, where the policy asks for two signers",
        run("sign raw@1"),
        run("promote raw@1"),
        DENIED,
        "1 of 2 count",
        given=_two_must_sign,
        honest=run("sign raw@1", by="carl"),
    ),
    fact(
        "signature-by-who-may-not",
        Has.LOGIN,
        "Sign the files of a version as an auditor",
        as_("olga"),
        run("sign raw@1"),
        "trust.role",
        "and olga is auditor",
        honest=as_("carl"),
    ),
    fact(
        "signature-over-damaged-files",
        Has.HOME,
        "Flip a bit of the stored weights before somebody signs them",
        lambda scene: flip(scene.stored("raw") / "adapter_model.safetensors"),
        run("sign raw@1", by="carl"),
        "registry.damaged_files",
        "adapter_model.safetensors",
    ),
    fact(
        "second-signature-removed",
        Has.DATABASE,
        "Remove the signature that a second person made",
        sql("DELETE FROM file_signature WHERE at = (SELECT max(at) FROM file_signature)"),
        run("promote raw@1"),
        DISAGREES,
        "is gone",
        given=both(_two_must_sign, run("sign raw@1", by="carl")),
    ),
    fact(
        "second-signature-of-another-version",
        Has.KEY,
        "Sign with the key of a second person that another version's signature is over these files",
        _signature_taken_from("bot@1"),
        run("promote raw@1"),
        DISAGREES,
        "is gone",
        given=_two_must_sign,
        honest=run("sign raw@1", by="carl"),
    ),
    fact(
        "evidence-below-the-limit",
        Has.LOGIN,
        "Give an evaluation that is worse than the policy asks for",
        POOR,
        PROMOTE,
        DENIED,
        "no eval meets it; it asks for eval acc at least 0.9",
        honest=GOOD,
    ),
    fact(
        "evidence-edited",
        Has.DATABASE,
        "Edit its numbers in the database",
        both(POOR, sql("UPDATE evidence SET metrics = '{\"acc\":0.99}'")),
        PROMOTE,
        DENIED,
        "adapter.approved.evidence",
        honest=GOOD,
    ),
    fact(
        "evidence-of-a-revoked-key",
        Has.LOGIN,
        "Promote on an evaluation whose signer was revoked",
        both(GOOD, revoking("carl")),
        PROMOTE,
        DENIED,
        "adapter.approved.evidence",
        honest=GOOD,
    ),
    fact(
        "evidence-in-two-ways",
        Has.LOGIN,
        "Give results with one metric twice",
        _results('{"acc": 0.1, "acc": 0.99}'),
        EVIDENCE,
        "registry.evidence",
        "twice",
        honest=GIVEN,
    ),
    fact(
        "evidence-not-a-number",
        Has.LOGIN,
        "Give NaN, which is neither above nor below a limit",
        _results('{"acc": NaN}'),
        EVIDENCE,
        "registry.evidence",
        "NaN",
        honest=GIVEN,
    ),
    fact(
        "evidence-oversize",
        Has.LOGIN,
        "Give 17 MiB of results",
        lambda scene: scene.file.write_bytes(b'{"acc": 1' + b" " * (17 * 2**20) + b"}"),
        EVIDENCE,
        "registry.evidence_size",
        "16777216",
        honest=GIVEN,
    ),
    fact(
        "evidence-bytes-edited",
        Has.DATABASE,
        "Edit the bytes of an evaluation that was signed for, and leave its numbers",
        both(GOOD, sql("UPDATE evidence_body SET body = CAST(replace(body, '0.95', '0.99') AS BLOB)")),
        run("audit verify"),
        VERIFIED,
        "the bytes of its eval sha256:",
        honest=GOOD,
    ),
    fact(
        "scan-that-failed",
        Has.LOGIN,
        "Promote a version whose newest scan found something",
        run("evidence scan raw@1 -- false", by="carl"),
        run("promote raw@1", by="carl"),
        "registry.quarantined",
        "its newest scan failed",
        honest=run("evidence scan raw@1 -- true", by="carl"),
    ),
    fact(
        "signature-over-files-damaged",
        Has.DATABASE,
        "Remove the signatures and look with `verify`",
        sql("DELETE FROM file_signature"),
        run("verify"),
        VERIFIED,
        "signature sha256:",
    ),
)


def glass(id_: str, has: Has, deed: str, spoil: Deed, act: Act, code: str, says: str, **more: Deed) -> Attack:
    """Return an attack by or on break-glass."""
    return Attack(id_, Threat.GLASS, has, deed, spoil, act, code, says, **more)


def _with_glass(scene: Scene) -> None:
    scene.policy.write_text(WITH_GLASS)


def _glass_for_all(scene: Scene) -> None:
    """Let the policy say that anyone may break it."""
    scene.policy.write_text(
        WITH_GLASS.replace('[adapter.break_glass]\nby = ["role:operator"]', '[adapter.break_glass]\nby = ["anyone"]')
    )


def _broken_until_now(scene: Scene) -> None:
    """Break the glass for a draft, and set the clock to the last second of it."""
    _with_glass(scene)
    with scene.opened("oscar") as oscar:
        oscar.break_glass(Ref("raw", 1), actor="oscar", reason="the live one leaks", to=Stage.LIVE)
        end = oscar.snapshot("tiny-moe").until
    assert end is not None
    scene.clock = lambda: end - timedelta(seconds=1)


def _a_second_later(scene: Scene) -> None:
    at = scene.clock() + timedelta(seconds=1)
    scene.clock = lambda: at


def _for_ever(scene: Scene) -> None:
    """Sign a break-glass for a year, with an operator's key."""
    body = promotion_of(scene, "raw@1")
    said = dict(body["predicate"]) | {"from_stage": "draft", "expires": "2099-01-01T00:00:00Z", "reason": "x"}
    kind = "https://loractl.dev/attestation/break-glass/v1"
    append(
        scene, signed(scene, body | {"predicateType": kind, "predicate": said}, "oscar"), "raw@1", kind="break-glass"
    )


BREAK = run("promote raw@1 --to live --break-glass --reason night", by="oscar")
GLASS = (
    glass(
        "glass-without-a-rule",
        Has.LOGIN,
        "Break the glass under a policy that has none",
        lambda scene: scene.policy.write_text(REVIEWED),
        BREAK,
        DENIED,
        "no rule of the policy allows it",
        given=_with_glass,
    ),
    glass(
        "glass-by-a-reviewer",
        Has.LOGIN,
        "Break it as a reviewer",
        as_("rita"),
        BREAK,
        DENIED,
        "adapter.break_glass.by",
        given=_with_glass,
    ),
    glass(
        "glass-for-anyone",
        Has.HOME,
        "Let the policy allow it to anyone, and break it as a contributor",
        both(_glass_for_all, as_("carl")),
        BREAK,
        "trust.role",
        "it takes operator, and carl is contributor",
        given=_with_glass,
    ),
    glass(
        "glass-on-damaged-files",
        Has.HOME,
        "Break it for a draft whose stored weights were swapped",
        lambda scene: flip(scene.stored("raw") / "adapter_model.safetensors"),
        BREAK,
        "registry.damaged_files",
        "adapter_model.safetensors should be sha256:",
        given=_with_glass,
    ),
    glass(
        "glass-on-an-edited-row",
        Has.DATABASE,
        "Break it for a row that says more than was signed",
        sql("UPDATE version SET provenance = json_set(provenance, '$.licence', 'MIT') WHERE name = 'raw'"),
        BREAK,
        DISAGREES,
        "provenance",
        given=_with_glass,
    ),
    glass(
        "glass-over-at-the-second",
        Has.PORT,
        "Ask at the second at which it ends; the control asks a second before",
        _a_second_later,
        Send("raw"),
        MISSING,
        "what was signed for it expired on",
        given=_broken_until_now,
    ),
    glass(
        "glass-for-ever",
        Has.KEY,
        "Sign a break-glass until 2099 with an operator's key",
        _for_ever,
        ASK,
        MISSING,
        "expires must be later than at, by at most 7 days",
    ),
)
ATTACKS: tuple[Attack, ...] = (*FACTS, *GLASS)
