"""Attacks on stored bytes, on the base, and on rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from attacks import forging
from attacks.acting import Run, Send, Sql, run
from attacks.declaring import Act, Attack, Deed, Has, Threat
from attacks.scene import Scene
from support.registry import write_adapter
from support.tampering import FLIP, REBIND, RENAME, RENUMBER, SWAP, UNREVOKE, run_sql

from loractl_registry import Stage
from loractl_registry.trust.statements import digest_of

WEIGHTS = "adapter_model.safetensors"
DAMAGED, MISSING, VERIFIED = "registry.damaged_files", "404 model_not_found", "cli.verification_failed"
DRY_RUN = run("serve tiny-moe --port 0 --dry-run")


def flip(file: Path) -> None:
    """Flip the last bit of a file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def flipped(name: str) -> Deed:
    """Flip a bit of the stored weights of a version."""
    return lambda scene: flip(scene.stored(name) / WEIGHTS)


def while_serving(deed: Deed) -> Deed:
    """Do `deed` once the server is up."""

    def spoil(scene: Scene) -> None:
        scene.during = lambda: deed(scene)

    return spoil


def _linked(scene: Scene) -> None:
    weights = scene.stored("bot") / WEIGHTS
    other = write_adapter(scene.root / "other-weights", seed=99, on_experts=True) / WEIGHTS
    weights.unlink()
    weights.symlink_to(other)


def _smuggled(scene: Scene) -> None:
    (scene.stored("bot") / "pytorch_model.bin").write_bytes(b"\x80\x04")


def stored(id_: str, deed: str, spoil: Deed, act: Run | Send, code: str, says: str) -> Attack:
    """Return an attack on the store."""
    return Attack(id_, Threat.STORE, Has.HOME, deed, spoil, act, code, says)


def _manifest_fits(scene: Scene) -> None:
    run_sql(scene.home, "UPDATE content SET manifest = (SELECT manifest FROM content ORDER BY digest LIMIT 1)")


STORE = (
    stored(
        "swap-before-candidate",
        "Flip a bit of a draft's stored weights",
        flipped("raw"),
        run("promote raw@1"),
        DAMAGED,
        "adapter_model.safetensors should be sha256:",
    ),
    stored(
        "swap-before-approval",
        "Flip a bit of a candidate's stored weights",
        flipped("sly"),
        run("approve sly@1 --reason read", by="rita"),
        DAMAGED,
        "adapter_model.safetensors should be sha256:",
    ),
    stored(
        "swap-after-approval",
        "Flip a bit of the live version's stored weights before the server starts",
        flipped("bot"),
        Send("bot"),
        MISSING,
        "adapter_model.safetensors",
    ),
    stored(
        "swap-while-serving",
        "Flip a bit of them while the server answers from them",
        while_serving(flipped("bot")),
        Send("bot"),
        MISSING,
        "adapter_model.safetensors",
    ),
    stored(
        "swap-by-link",
        "Put a link to other weights in their place",
        _linked,
        Send("bot"),
        MISSING,
        "adapter_model.safetensors",
    ),
    stored(
        "swap-by-link-while-serving",
        "Do that while the server answers",
        while_serving(_linked),
        Send("bot"),
        MISSING,
        "adapter_model.safetensors",
    ),
    stored(
        "weights-removed-while-serving",
        "Remove the weights while the server answers",
        while_serving(lambda scene: (scene.stored("bot") / WEIGHTS).unlink()),
        Send("bot"),
        MISSING,
        "adapter_model.safetensors",
    ),
    stored(
        "pickle-in-the-store",
        "Put a pickle beside the stored weights",
        _smuggled,
        run("verify bot@1"),
        VERIFIED,
        "pytorch_model.bin",
    ),
    stored(
        "manifest-made-to-fit",
        "Swap the manifest for that of other bytes",
        _manifest_fits,
        run("verify"),
        VERIFIED,
        "manifest",
    ),
)


def _in_config(scene: Scene) -> None:
    file = scene.base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoModel": "modeling_x.Model"}}))


def based(id_: str, deed: str, spoil: Callable[[Scene], object], act: Run, code: str, says: str) -> Attack:
    """Return an attack on the base."""
    return Attack(id_, Threat.BASE, Has.FILES, deed, spoil, act, code, says)


CHANGED, ADMIT = "serve.base_changed", run("base add other-base {base}")
BASES = (
    based(
        "tokenizer-altered",
        "Alter the tokenizer after the base was admitted",
        lambda scene: (scene.base / "tokenizer.json").write_text('{"version": "1.0", "model": {}}'),
        DRY_RUN,
        CHANGED,
        "tokenizer.json",
    ),
    based(
        "base-weights-altered",
        "Flip a bit of the base's weights after it was admitted",
        lambda scene: flip(scene.base / "model.safetensors"),
        DRY_RUN,
        CHANGED,
        "model.safetensors",
    ),
    based(
        "code-added-to-the-base",
        "Put `modeling.py` beside the admitted weights",
        lambda scene: (scene.base / "modeling.py").write_text("import os"),
        DRY_RUN,
        CHANGED,
        "modeling.py",
    ),
    based(
        "base-with-auto-map",
        "Admit a base whose config names code of its own",
        _in_config,
        ADMIT,
        "registry.unsafe_file",
        "auto_map",
    ),
    based(
        "base-with-pickle",
        "Admit a base with pickled weights",
        lambda scene: (scene.base / "pytorch_model.bin").write_bytes(b"\x80\x04"),
        ADMIT,
        "registry.unsafe_file",
        ".bin files can carry code",
    ),
    based(
        "base-replaced-under-its-name",
        "Admit other weights under the name of the admitted base",
        lambda scene: flip(scene.base / "model.safetensors"),
        run("base add tiny-moe {base}"),
        "registry.base_differs",
        "base tiny-moe is admitted as sha256:",
    ),
)


def sql(*statements: str) -> Deed:
    """Run SQL with the triggers out of the way."""
    return lambda scene: run_sql(scene.home, *statements)


def row(
    id_: str, deed: str, spoil: Deed, model: str, says: str, *, honest: Deed | None = None, code: str = MISSING
) -> Attack:
    """Return an attack on the rows, which asks the server for a model."""
    return Attack(id_, Threat.ROWS, Has.DATABASE, deed, spoil, Send(model), code, says, honest=honest)


def governed(id_: str, deed: str, statement: str, act: Act, code: str, says: str) -> Attack:
    """Return an attack on the row of the base."""
    return Attack(id_, Threat.BASE, Has.DATABASE, deed, sql(statement), act, code, says)


PUT_IN = """
INSERT INTO base (name, digest, path, source, licence, size_bytes, file_count, manifest, signatures, config, added_at,
added_by) SELECT 'other-base', digest, path, source, licence, size_bytes, file_count, manifest,
signatures, config, added_at, added_by FROM base
"""


def _other_base(scene: Scene) -> None:
    """Admit the same files under a second name, as one should."""
    ADMIT(scene)


DRAFT_PUT_IN = """
INSERT INTO version SELECT 'evil', 1, 'draft', digest, base_id, provenance, added_at, added_by FROM version
WHERE name = 'raw'
"""


def _listed_by(name: str) -> Deed:
    def spoil(scene: Scene) -> None:
        sql(DRAFT_PUT_IN)(scene)
        chain = forging.stored(scene.home)
        body, last = next(one for one in chain if one.kind == "inventory").body, chain[-1]
        digest = next(one for one in chain if one.subject == "raw@1").body["subject"][0]["digest"]["sha256"]
        place = {"sequence": last.sequence + 1, "previous": digest_of(last.payload), "at": last.body["predicate"]["at"]}
        older = {"versions": [{"name": "evil@1", "digest": f"sha256:{digest}"}]}
        body |= {"predicate": dict(body["predicate"]) | place | older}
        forging.append(scene, forging.signed(scene, body, name), "registry", kind="inventory")

    return spoil


def _rita_admits(scene: Scene) -> None:
    """Let reviewers admit bases, and nobody else."""
    scene.policy.write_text(scene.policy.read_text().replace('base.by = ["anyone"]', 'base.by = ["role:reviewer"]'))


def _admitted_by_rita(scene: Scene) -> None:
    _rita_admits(scene)
    scene.identity = "rita"
    ADMIT(scene)
    scene.identity = None


def _admitted_past_the_policy(by: str) -> Deed:
    """Sign with sqlite3 and a key that another base is admitted, and insert its row."""

    def spoil(scene: Scene) -> None:
        body = dict(next(one for one in forging.stored(scene.home) if one.kind == "base").body)
        last = forging.stored(scene.home)[-1]
        body["subject"] = [dict(body["subject"][0]) | {"name": "other-base"}]
        place = {"sequence": last.sequence + 1, "previous": digest_of(last.payload), "at": last.body["predicate"]["at"]}
        body["predicate"] = dict(body["predicate"]) | place
        forging.append(scene, forging.signed(scene, body, by), "other-base", kind="base")
        sql(PUT_IN)(scene)

    return spoil


SERVE_OTHER = run("serve other-base --port 0 --dry-run")
GOVERNED = (
    governed(
        "base-licence-edited",
        "`UPDATE base SET licence = 'mit'`, which no trigger refuses, to pass the policy",
        "UPDATE base SET licence = 'mit'",
        run("promote raw@1"),
        "registry.base_disagreement",
        "the database says licence mit",
    ),
    governed(
        "base-source-edited",
        "Say that the base came from the publisher",
        "UPDATE base SET source = 'hf:openai/gpt-oss-20b'",
        DRY_RUN,
        "serve.distrust",
        "the database says source",
    ),
    governed(
        "adapter-on-an-edited-base",
        "Edit the row of the base, and ask for an adapter on it",
        "UPDATE base SET licence = 'mit'",
        Send("bot"),
        MISSING,
        "the database says licence mit",
    ),
    Attack(
        "base-put-in",
        Threat.BASE,
        Has.DATABASE,
        "Insert a base that nobody admitted",
        sql(PUT_IN),
        SERVE_OTHER,
        "serve.distrust",
        "no signed statement admits",
        honest=_other_base,
    ),
    Attack(
        "base-admitted-without-the-role",
        Threat.PEOPLE,
        Has.LOGIN,
        "Admit a base as an auditor, under a policy that lets anyone",
        lambda scene: setattr(scene, "identity", "olga"),
        ADMIT,
        "trust.role",
        "and olga is auditor",
    ),
    Attack(
        "base-admitted-against-the-policy",
        Threat.PEOPLE,
        Has.LOGIN,
        "Admit a base as a contributor, where the policy names others",
        lambda scene: setattr(scene, "identity", "carl"),
        ADMIT,
        "registry.base_denied",
        "it does not name carl (contributor)",
        given=_rita_admits,
        honest=lambda scene: setattr(scene, "identity", "rita"),
    ),
    Attack(
        "base-admitted-past-the-policy",
        Threat.BASE,
        Has.KEY,
        "Sign that a base is admitted with the key of a contributor whom the policy does not name, and insert it",
        _admitted_past_the_policy("carl"),
        SERVE_OTHER,
        "serve.distrust",
        "no signed statement admits",
        given=_rita_admits,
        honest=_admitted_past_the_policy("rita"),
    ),
    Attack(
        "base-admitted-by-whom-the-policy-named",
        Threat.BASE,
        Has.LOGIN,
        "Go on serving a base that a reviewer admitted, after the policy has ceased to let them",
        lambda scene: scene.policy.write_text(scene.policy.read_text().replace("role:reviewer", "role:operator", 1)),
        SERVE_OTHER,
        "serve.distrust",
        "no signed statement admits",
        given=_admitted_by_rita,
    ),
    Attack(
        "base-of-a-refused-licence",
        Threat.POLICY,
        Has.FILES,
        "Admit a base whose licence the policy does not allow",
        lambda scene: scene.policy.write_text('base.licences = ["mit"]\n' + scene.policy.read_text()),
        run("base add other-base {base} --licence apache-2.0"),
        "registry.base_denied",
        "apache-2.0",
    ),
)


def added(name: str, number: int = 1) -> Deed:
    """Add versions of `name` until there is this one, and take it up as one should."""

    def honest(scene: Scene) -> None:
        with scene.opened() as registry:
            for seed in range(20, 30):
                folder = write_adapter(scene.root / "made" / str(seed), seed=seed, on_experts=True)
                if registry.add(name, str(folder), actor="ada").version.ref.number == number:
                    break
        scene.go_live(name, number=number)

    return honest


def _approved_in_the_log(scene: Scene) -> None:
    columns = "at, actor, action, subject, from_stage, to_stage, reason, detail"
    run_sql(
        scene.home,
        f"INSERT INTO audit ({columns}, digest) SELECT at, 'rita', 'adapter.approve', 'sly@1', NULL, NULL, 'fine', "
        '\'{"to": "approved"}\', digest FROM audit ORDER BY sequence DESC LIMIT 1',
    )


SAYS_CANDIDATE = "the database says live, and the signed statements say candidate"
ROWS = (
    row(
        "stage-flipped",
        "`UPDATE version SET stage = 'live'` on a candidate",
        sql(*FLIP),
        "sly",
        SAYS_CANDIDATE,
        honest=lambda scene: scene.go_live("sly"),
    ),
    row(
        "draft-made-live",
        "Make a draft live, of which nobody signed more than that it was added",
        sql("UPDATE version SET stage = 'live', base_id = (SELECT id FROM base) WHERE name = 'raw'"),
        "raw",
        "the database says live, and the signed statements say draft",
        honest=lambda scene: scene.go_live("raw"),
    ),
    row(
        "revoked-raised",
        "Make a revoked version live again",
        sql(*UNREVOKE),
        "gone",
        "the database says live, and the signed statements say revoked",
        honest=added("gone", 2),
    ),
    Attack(
        "draft-put-in",
        Threat.ROWS,
        Has.DATABASE,
        "Insert a draft with the bytes of another version, as if it were from before additions were signed",
        sql(DRAFT_PUT_IN),
        run("promote evil@1"),
        "registry.disagreement",
        "no signed statement says that it was added",
        honest=run("add evil {folder}"),
    ),
    Attack(
        "draft-put-in-and-found",
        Threat.ROWS,
        Has.DATABASE,
        "Do that, and look with `audit verify`",
        sql(DRAFT_PUT_IN),
        run("audit verify"),
        VERIFIED,
        "evil@1: it is in the database",
        honest=run("add evil {folder}"),
    ),
    Attack(
        "draft-put-in-and-listed",
        Threat.ROWS,
        Has.KEY,
        "Do that, and sign with an operator's key that it is from before additions were signed",
        _listed_by("oscar"),
        run("promote evil@1"),
        "registry.disagreement",
        "no signed statement says that it was added",
        honest=run("add evil {folder}"),
    ),
    Attack(
        "draft-put-in-and-listed-by-a-contributor",
        Threat.ROWS,
        Has.KEY,
        "Do that with the key of a contributor",
        _listed_by("carl"),
        run("promote evil@1"),
        "trust.role",
        "it takes operator, and carl is contributor",
        honest=run("add evil {folder}"),
    ),
    row(
        "renamed",
        "Rename the live version to `evil`",
        sql(*RENAME),
        "evil",
        "no signed statement is about it",
        honest=added("evil"),
    ),
    row(
        "renumbered", "Call version 1 version 7", sql(*RENUMBER), "bot@7", "no signed statement", honest=added("bot", 7)
    ),
    row(
        "digest-swapped", "Point the live version at other stored bytes", sql(*SWAP), "bot", "the database says content"
    ),
    row(
        "digest-swapped-while-serving",
        "Do that while the server answers",
        while_serving(sql(*SWAP)),
        "bot",
        "the database says content",
    ),
    row("base-swapped", "Say that another base has the name", sql(*REBIND), "bot", "the database says digest"),
    Attack(
        "approval-forged-in-the-log",
        Threat.ROWS,
        Has.DATABASE,
        "Insert an approval by rita into the audit log",
        _approved_in_the_log,
        run("promote sly@1", by="rita"),
        "registry.policy_denied",
        "0 of 1 count",
        honest=run("approve sly@1 --reason read", by="rita"),
    ),
    Attack(
        "rank-lowered",
        Threat.ROWS,
        Has.DATABASE,
        "Lower the rank in the database below the limit of the policy",
        sql("UPDATE content SET facts = json_set(facts, '$.rank', 2)"),
        run("promote raw@1"),
        "registry.row_facts",
        "the database says rank 2, and its files say 4",
    ),
    Attack(
        "size-lowered",
        Threat.ROWS,
        Has.DATABASE,
        "Lower the size in the same way",
        sql("UPDATE content SET size_bytes = 1"),
        run("promote raw@1"),
        "registry.row_facts",
        "the database says size 1, and its files say",
    ),
    Attack(
        "flip-then-build-on-it",
        Threat.ROWS,
        Has.DATABASE,
        "Flip the candidate to approved, so that the operator only has to take the last rung",
        sql("UPDATE version SET stage = 'approved' WHERE name = 'sly'"),
        run("promote sly@1 --to live", by="oscar"),
        "registry.disagreement",
        "the database says approved, and the signed statements say candidate",
        honest=lambda scene: scene.go_live("sly", until=Stage.APPROVED),
    ),
)


def trigger(id_: str, threat: Threat, deed: str, statement: str, says: str) -> Attack:
    """Return an attack by SQL with the triggers in place."""

    def spoil(scene: Scene) -> None:
        scene.sql = statement

    return Attack(id_, threat, Has.DATABASE, f"`{deed}`", spoil, Sql(), "sqlite3.IntegrityError", says)


TRIGGERS = (
    trigger(
        "version-deleted",
        Threat.ROWS,
        "DELETE FROM version",
        "DELETE FROM version WHERE name = 'bot'",
        "a version is never deleted",
    ),
    trigger(
        "revoked-raised-by-sql",
        Threat.ROWS,
        "UPDATE version SET stage = 'live'",
        "UPDATE version SET stage = 'live' WHERE name = 'gone'",
        "revoked is terminal",
    ),
    trigger(
        "statement-updated",
        Threat.STATEMENTS,
        "UPDATE statement SET subject = 'sly@1'",
        "UPDATE statement SET subject = 'sly@1'",
        "statements are append-only",
    ),
    trigger(
        "statement-replaced",
        Threat.STATEMENTS,
        "INSERT OR REPLACE INTO statement",
        "INSERT OR REPLACE INTO statement SELECT * FROM statement WHERE sequence = 3",
        "statements are append-only",
    ),
    trigger(
        "event-updated",
        Threat.AUDIT,
        "UPDATE audit SET actor = 'eve'",
        "UPDATE audit SET actor = 'eve'",
        "the audit log is append-only",
    ),
    trigger(
        "event-deleted",
        Threat.AUDIT,
        "DELETE FROM audit",
        "DELETE FROM audit WHERE sequence = 3",
        "the audit log is append-only",
    ),
)


def logged(id_: str, deed: str, *statements: str, says: str) -> Attack:
    """Return an attack on the audit log with the triggers out of the way."""
    return Attack(id_, Threat.AUDIT, Has.DATABASE, deed, sql(*statements), run("audit verify"), VERIFIED, says)


AUDIT = (
    logged(
        "event-edited",
        "Drop the triggers and write another actor into an event",
        "UPDATE audit SET actor = 'eve' WHERE sequence = 5",
        says="audit row 5 or the one before it was changed",
    ),
    logged(
        "event-removed",
        "Drop the triggers and delete an event",
        "DELETE FROM audit WHERE sequence = 5",
        says="audit row",
    ),
    logged(
        "events-reordered",
        "Drop the triggers and swap two events",
        "UPDATE audit SET sequence = sequence + 1000 WHERE sequence IN (5, 6)",
        "UPDATE audit SET sequence = CASE sequence WHEN 1005 THEN 6 ELSE 5 END WHERE sequence > 1000",
        says="audit row",
    ),
    logged(
        "events-cut",
        "Drop the triggers and cut off the newest events, and the counter with them",
        "DELETE FROM audit WHERE sequence > 8",
        "UPDATE sqlite_sequence SET seq = 8 WHERE name = 'audit'",
        says="is named by no event of the audit log",
    ),
)
ATTACKS: tuple[Attack, ...] = (*STORE, *BASES, *GOVERNED, *ROWS, *TRIGGERS, *AUDIT)
