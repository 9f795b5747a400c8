"""Attacks on the note that statements were verified already, which spares the next command from verifying them."""

from __future__ import annotations

import shutil

from attacks.acting import Run, run
from attacks.declaring import Attack, Deed, Has, Threat
from attacks.forging import forged, stored
from attacks.scene import Scene, revoking
from support.notes import NOTE, SECRET, make_note_fit, swap_statement
from support.tampering import copied, restored, run_sql

from loractl_registry import Ref, Registry

APPROVE = run("approve sly@1 --reason read", by="rita")
PROMOTE = run("promote raw@1")
_THEIRS = b"a secret of who attacks, 32 bytes"[:32]


def noted(scene: Scene) -> None:
    """Have the home note that everything in it was verified."""
    assert run("policy explain bot@1")(scene).code == "done"
    assert (scene.home / NOTE).is_file()


def note(
    id_: str,
    deed: str,
    spoil: Deed,
    code: str,
    says: str,
    *,
    has: Has = Has.HOME,
    act: Run = APPROVE,
) -> Attack:
    """Return an attack on a home whose statements are noted as verified, where the note would hide it if believed."""
    return Attack(id_, Threat.NOTE, has, deed, spoil, act, code, says, given=noted)


def _swap(scene: Scene) -> None:
    """Edit a promotion in the middle, which neither the checkpoint nor the row of a version shows."""
    sequence = next(one.sequence for one in stored(scene.home) if one.subject == "other@1" and one.kind == "promotion")
    swap_statement(scene.home, sequence, tenants=["acme"])


def _swapped_and(hide: Deed) -> Deed:
    def spoil(scene: Scene) -> None:
        _swap(scene)
        hide(scene)

    return spoil


def _sealed_anew(scene: Scene) -> None:
    make_note_fit(scene.home, _THEIRS)


def _without_secret(scene: Scene) -> None:
    (scene.home / SECRET).unlink()
    make_note_fit(scene.home)


def _with_a_secret_that_others_read(scene: Scene) -> None:
    (scene.home / SECRET).chmod(0o644)
    make_note_fit(scene.home)


def _with_a_linked_secret(scene: Scene) -> None:
    theirs = scene.root / "theirs"
    theirs.write_bytes(_THEIRS)
    theirs.chmod(0o600)
    (scene.home / SECRET).unlink()
    (scene.home / SECRET).symlink_to(theirs)
    make_note_fit(scene.home)


def _with_a_secret_from_elsewhere(scene: Scene) -> None:
    """What an archive of the home holds that somebody prepared: a secret of theirs, and a seal made before."""
    theirs = scene.root / "theirs"
    theirs.write_bytes(_THEIRS)
    theirs.chmod(0o600)
    (scene.home / SECRET).unlink()
    (scene.home / SECRET).hardlink_to(theirs)
    make_note_fit(scene.home)
    (scene.home / SECRET).unlink()
    shutil.copy2(theirs, scene.home / SECRET)


def _of_another_home(scene: Scene) -> None:
    with Registry.open(scene.outsider) as outsider:
        outsider.policies.explain(Ref("bot", 1), actor="eve")
    for name in (NOTE, SECRET):
        shutil.copy2(scene.outsider / name, scene.home / name)


def _truncated(scene: Scene) -> None:
    make_note_fit(scene.home)
    text = (scene.home / NOTE).read_text()
    (scene.home / NOTE).write_text(text[: len(text) // 2])


def _restored_with_its_note(scene: Scene) -> None:
    backup = copied(scene.home, scene.root / "backup.db")
    shutil.copy2(scene.home / NOTE, scene.root / "backup.json")
    with scene.opened() as ada:
        ada.revoke(Ref("other", 1), actor="ada", reason="leaks")
    restored(scene.home, backup)
    shutil.copy2(scene.root / "backup.json", scene.home / NOTE)


def _by_a_key_revoked_since(scene: Scene) -> None:
    revoking("oscar")(scene)
    noted(scene)
    forged("oscar")(scene)


def _filed_elsewhere(scene: Scene) -> None:
    """Hide a revocation from who looks for the statements about that version."""
    with scene.opened() as ada:
        ada.revoke(Ref("raw", 1), actor="ada", reason="leaks")
    noted(scene)
    run_sql(
        scene.home,
        "UPDATE statement SET subject = 'bot@1', kind = 'promotion' WHERE subject = 'raw@1' AND kind = 'revocation'",
        "UPDATE version SET stage = 'draft' WHERE name = 'raw'",
    )


_INVALID, _NOT_BY = "trust.signature_invalid", "its signature is not by key"

ATTACKS = (
    note(
        "statement-swapped-under-the-note",
        "Edit a statement in the middle after everything was noted as verified",
        _swap,
        _INVALID,
        _NOT_BY,
        has=Has.DATABASE,
    ),
    note(
        "note-made-to-fit",
        "Do that, and make the note say that the statements as they are now were verified",
        _swapped_and(_sealed_anew),
        _INVALID,
        _NOT_BY,
    ),
    note("note-cut", "Do that, and cut the note short", _swapped_and(_truncated), _INVALID, _NOT_BY),
    note(
        "note-without-its-secret",
        "Do that, and remove the secret that seals the note",
        _swapped_and(_without_secret),
        _INVALID,
        _NOT_BY,
    ),
    note(
        "note-with-a-readable-secret",
        "Seal the note with the home's own secret, which somebody made readable for others",
        _swapped_and(_with_a_secret_that_others_read),
        _INVALID,
        _NOT_BY,
    ),
    note(
        "note-with-a-linked-secret",
        "Put a link to a secret of one's own in the place of the home's, and seal the note with that",
        _swapped_and(_with_a_linked_secret),
        _INVALID,
        _NOT_BY,
    ),
    note(
        "note-with-a-planted-secret",
        "Have the owner unpack an archive of the home with a secret of one's own and a note that it seals",
        _swapped_and(_with_a_secret_from_elsewhere),
        _INVALID,
        _NOT_BY,
    ),
    note(
        "note-of-another-home",
        "Put note and secret of another home in the place of this home's",
        _swapped_and(_of_another_home),
        _INVALID,
        _NOT_BY,
    ),
    note(
        "note-put-back-with-its-database",
        "Put the database of an hour ago back, from before a revocation, with the note of that time",
        _restored_with_its_note,
        "trust.rollback",
        "a signed checkpoint has seen",
    ),
    note(
        "signed-after-the-note-by-a-revoked-key",
        "Sign a promotion with a key whose revocation is noted as verified",
        _by_a_key_revoked_since,
        "trust.key_revoked",
        "was revoked at sequence",
        has=Has.KEY,
    ),
    note(
        "revocation-filed-elsewhere",
        "File a noted revocation under another version in the database, and set the row of its own back to draft",
        _filed_elsewhere,
        "registry.disagreement",
        "the signed statements say revoked",
        has=Has.DATABASE,
        act=PROMOTE,
    ),
)
