"""Attacks on what was signed, and on what remembers how far the chain went."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

from attacks.acting import Send, run
from attacks.declaring import Act, Attack, Deed, Has, Threat
from attacks.forging import append, forged, last_edited, last_envelope, promotion_of, signed, stored, within
from attacks.on_store import MISSING, sql, while_serving
from attacks.scene import REVIEWED, Scene, revoking
from support.tampering import CUT, DATABASE, HOLE, REORDER, REPLAY, WIPE, copied, restored

from loractl_registry import Ref, Registry
from loractl_registry.trust.checkpoint import PAYLOAD_TYPE as CHECKPOINT_TYPE

ASK = Send("bot")


def statement(
    id_: str, has: Has, deed: str, spoil: Deed, says: str, *, act: Act = ASK, code: str = MISSING, **more: Deed
) -> Attack:
    """Return an attack on the statements; what is asked for then is what was live all the time."""
    return Attack(id_, Threat.STATEMENTS, has, deed, spoil, act, code, says, **more)


def _by_a_revoked_key(scene: Scene) -> None:
    revoking("oscar")(scene)
    append(scene, signed(scene, promotion_of(scene, "sly@1"), "oscar"), "sly@1")


def _in_two_ways(scene: Scene) -> None:
    last_envelope(lambda text: text.replace('{"payload":', '{"payload":"AAAA","payload":', 1))(scene)


def _as_checkpoint(scene: Scene) -> None:
    append(scene, signed(scene, promotion_of(scene, "sly@1"), "oscar", payload_type=CHECKPOINT_TYPE), "sly@1")


def _of_the_outsider(scene: Scene) -> None:
    theirs = stored(scene.outsider)[-1]
    append(scene, theirs.envelope.encode(), theirs.subject)


EXPIRING = REVIEWED.replace(
    'by = ["role:reviewer"]\n[adapter.approved.approvals]',
    'by = ["role:reviewer"]\nexpires_days = 1\n[adapter.approved.approvals]',
)


def _approved_for_a_day(scene: Scene) -> None:
    """Take a version live under a policy that lets approvals expire, and set the clock to the last second of it."""
    scene.policy.write_text(EXPIRING)
    scene.go_live("raw")
    with scene.opened() as registry:
        end = registry.snapshot("tiny-moe").until
    assert end is not None
    scene.clock = lambda: end - timedelta(seconds=1)


def _a_second_later(scene: Scene) -> None:
    at = scene.clock() + timedelta(seconds=1)
    scene.clock = lambda: at


def _tomorrow(scene: Scene) -> str:
    at = scene.clock() + timedelta(days=1)
    return at.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


STATEMENTS = (
    statement(
        "statement-replayed",
        Has.DATABASE,
        "Append a copy of an old promotion of a version that was revoked since",
        sql(*REPLAY),
        "stands where sequence",
    ),
    statement(
        "statement-replayed-while-serving",
        Has.DATABASE,
        "Do that while the server answers",
        while_serving(sql(*REPLAY)),
        "stands where sequence",
    ),
    statement("statements-reordered", Has.DATABASE, "Swap two statements", sql(*REORDER), "where sequence 2 must"),
    statement("statement-removed", Has.DATABASE, "Remove one from the middle", sql(*HOLE), "where sequence 3 must"),
    statement(
        "statements-cut",
        Has.DATABASE,
        "Cut off the newest one, which revoked a version",
        sql(*CUT),
        "a signed checkpoint has seen",
    ),
    statement(
        "statements-cut-while-serving",
        Has.DATABASE,
        "Do that while the server answers",
        while_serving(sql(*CUT)),
        "a signed checkpoint has seen",
    ),
    statement("statements-wiped", Has.DATABASE, "Remove all of them", sql(*WIPE), "a signed checkpoint has seen"),
    statement(
        "statement-edited",
        Has.DATABASE,
        "Edit what the newest one says, and leave its signature",
        last_edited(lambda body: body | {"subject": [body["subject"][0] | {"name": "bot@1"}]}),
        "its signature is not by key",
    ),
    statement(
        "envelope-with-two-payloads",
        Has.DATABASE,
        "Give an envelope a second payload, so that two readers see two statements",
        _in_two_ways,
        "it has the key 'payload' twice",
    ),
    statement(
        "envelope-cut",
        Has.DATABASE,
        "Cut the payload of an envelope short",
        last_envelope(lambda text: text.replace('{"payload":"', '{"payload":"A', 1)),
        "is not base64",
    ),
    statement(
        "envelope-oversize",
        Has.DATABASE,
        "Blow an envelope up to 300 KiB",
        last_envelope(lambda text: text.replace("{", '{"padding":"' + "x" * 300_000 + '",', 1)),
        "it is larger than 262144 bytes",
    ),
    statement(
        "envelope-of-another-type",
        Has.KEY,
        "Pass a signature over a checkpoint off as one over a statement",
        _as_checkpoint,
        "its payload type is",
    ),
    statement(
        "statement-of-another-home",
        Has.DATABASE,
        "Append a promotion that was signed in another home",
        _of_the_outsider,
        "which no identity here has",
    ),
    statement(
        "home-forged-into-a-statement",
        Has.KEY,
        "Sign a promotion for another home and append it here",
        forged("oscar", change=within(home="0" * 64)),
        "it belongs to home 0000000000000000",
    ),
    statement(
        "signed-by-a-revoked-key",
        Has.KEY,
        "Sign a promotion with an operator's key that was revoked",
        _by_a_revoked_key,
        "was revoked at sequence",
    ),
    statement(
        "signed-in-the-past-by-a-revoked-key",
        Has.KEY,
        "Date it back to a sequence at which the key was trusted",
        forged("oscar", change=within(sequence=9)),
        "stands where sequence",
    ),
    statement(
        "signed-by-a-role-that-may-not",
        Has.KEY,
        "Sign a promotion to live with the key of an auditor",
        forged("olga"),
        "it takes operator, and olga is auditor",
    ),
    statement(
        "signed-by-a-stranger",
        Has.KEY,
        "Sign it with a key that nobody trusts",
        forged("eve"),
        "which no identity here has",
    ),
    statement(
        "rung-skipped",
        Has.KEY,
        "Sign `approved to live` for a candidate with an operator's key, and flip the row to fit",
        forged("oscar"),
        "the database says live, and the signed statements say candidate",
        act=Send("sly"),
        honest=lambda scene: scene.go_live("sly"),
    ),
    statement(
        "two-rungs-at-once",
        Has.KEY,
        "Sign one promotion from candidate to live",
        forged("oscar", change=within(from_stage="candidate")),
        "no rung leads from candidate to live",
    ),
    statement(
        "unknown-predicate",
        Has.KEY,
        "Sign a statement of a type that does not exist",
        forged("oscar", change=lambda body: body | {"predicateType": "https://loractl.dev/attestation/wish/v1"}),
        "attestation/wish/v1' is not known",
    ),
    statement(
        "unknown-field",
        Has.KEY,
        "Sign a promotion with one field more",
        forged("oscar", change=within(also="approved")),
        "refused statement",
    ),
    statement(
        "dated-in-the-future",
        Has.KEY,
        "Sign a promotion that is dated tomorrow",
        lambda scene: forged("oscar", change=within(at=_tomorrow(scene)))(scene),
        "it is dated",
    ),
    statement(
        "expired-at-the-second",
        Has.PORT,
        "Ask at the second at which the approval ends; the control asks a second before",
        _a_second_later,
        "what was signed for it expired on",
        act=Send("raw"),
        given=_approved_for_a_day,
    ),
    statement(
        "serve-on-a-cut-chain",
        Has.DATABASE,
        "Cut the chain and start the server anew",
        sql(*CUT),
        "a signed checkpoint has seen",
        act=run("serve tiny-moe --port 0 --dry-run"),
        code="serve.distrust",
    ),
    statement(
        "write-on-a-cut-chain",
        Has.DATABASE,
        "Cut the chain, so that the next honest signature covers it up",
        sql(*CUT),
        "a signed checkpoint has seen",
        act=run("promote raw@1"),
        code="trust.rollback",
    ),
)


def rollback(id_: str, deed: str, spoil: Deed, says: str, *, act: Act = ASK, code: str = MISSING) -> Attack:
    """Return an attack on what remembers how far the chain went."""
    return Attack(id_, Threat.ROLLBACK, Has.HOME, deed, spoil, act, code, says)


def _put_back(scene: Scene) -> None:
    backup = copied(scene.home, scene.root / "backup.db")
    with scene.opened() as ada:
        ada.revoke(Ref("other", 1), actor="ada", reason="leaks")
    restored(scene.home, backup)


def _forked(scene: Scene) -> None:
    """Let two histories grow from the same copy, and put one under the checkpoint of the other."""
    other = scene.root / "fork"
    shutil.copytree(scene.home, other)
    with Registry.open(other, identity="rita") as rita:
        rita.reject(Ref("sly", 1), actor="rita", reason="the other story")
    with scene.opened("rita") as rita:
        rita.demote(Ref("sly", 1), actor="rita", reason="the true story")
    restored(scene.home, other / DATABASE)


def _checkpoint_edited(scene: Scene) -> None:
    file = scene.home / "checkpoint.json"
    envelope = json.loads(file.read_text())
    sig = envelope["signatures"][0]["sig"]
    envelope["signatures"][0]["sig"] = sig[:20] + ("A" if sig[20] != "A" else "B") + sig[21:]
    file.write_text(json.dumps(envelope))


def _of_outsider(name: str) -> Deed:
    return lambda scene: shutil.copy(scene.outsider / name, scene.home / name) and None


ROLLBACK = (
    rollback(
        "database-put-back",
        "Put the database of an hour ago back, from before a revocation",
        _put_back,
        "a signed checkpoint has seen",
    ),
    rollback(
        "database-put-back-while-serving",
        "Do that while the server answers",
        while_serving(_put_back),
        "a signed checkpoint has seen",
    ),
    rollback(
        "database-put-back-then-built-on",
        "Do that and promote something, so that the chain grows past the checkpoint again",
        _put_back,
        "a signed checkpoint has seen",
        act=run("promote raw@1"),
        code="trust.rollback",
    ),
    rollback(
        "history-forked",
        "Put a copy of the database in its place that went another way",
        _forked,
        "a signed checkpoint saw",
    ),
    rollback(
        "checkpoint-removed",
        "Remove `checkpoint.json`",
        lambda scene: (scene.home / "checkpoint.json").unlink(),
        "no checkpoint in",
    ),
    rollback("checkpoint-edited", "Edit its signature", _checkpoint_edited, "its signature is not by key"),
    rollback(
        "checkpoint-emptied",
        "Empty it",
        lambda scene: (scene.home / "checkpoint.json").write_text(""),
        "it is not JSON",
    ),
    rollback(
        "checkpoint-of-another-home",
        "Put the checkpoint of another home in its place",
        _of_outsider("checkpoint.json"),
        "which no identity here has",
    ),
    rollback(
        "database-of-another-home",
        "Put the database of another home in the place of this one, with versions of the same names",
        lambda scene: restored(scene.home, scene.outsider / DATABASE),
        "which no identity here has",
    ),
)

ATTACKS: tuple[Attack, ...] = (*STATEMENTS, *ROLLBACK)
