"""Attacks on keys, by people who may not, and by what the policy says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from attacks.acting import Run, run
from attacks.declaring import Attack, Deed, Has, Threat
from attacks.scene import REVIEWED, Scene, revoking
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from loractl_registry import Ref, Registry, Stage

SIGN = run("promote raw@1")


def keyed(id_: str, deed: str, spoil: Deed, code: str, says: str, *, act: Run = SIGN) -> Attack:
    """Return an attack on a private key, before its owner signs with it."""
    return Attack(id_, Threat.KEYS, Has.HOME, deed, spoil, act, code, says)


def _other_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Deed:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return lambda scene: scene.key("ada").write_bytes(pem) and None


def _swapped(scene: Scene) -> None:
    scene.key("ada").write_bytes(scene.key("eve").read_bytes())


def _fifo(scene: Scene) -> None:
    scene.key("ada").unlink()
    os.mkfifo(scene.key("ada"), 0o600)


def _locked(scene: Scene) -> None:
    """Make a home whose only key has a passphrase."""
    shutil.rmtree(scene.home)
    with Registry.open(scene.home, passphrase=lambda: "correct horse battery") as registry:
        registry.identities.create("ada", actor="ada", passphrase=lambda: "correct horse battery")
        registry.add_base("tiny-moe", str(scene.base), actor="ada")
        registry.add("raw", str(scene.folder), actor="ada")
    scene.environ["LORACTL_IDENTITY_PASSPHRASE"] = "correct horse battery"


def _guessed(scene: Scene) -> None:
    scene.environ["LORACTL_IDENTITY_PASSPHRASE"] = "hunter2"


def _key_file(content: Callable[[Scene], bytes]) -> Deed:
    """Offer a file as somebody's public key."""

    def spoil(scene: Scene) -> None:
        scene.key_file = scene.root / "offered.pub"
        scene.key_file.write_bytes(content(scene))

    return spoil


TRUST_EVE = run("identity trust eve {key} --role reviewer")
OFFERED = _key_file(lambda scene: scene.public_key("eve").read_bytes())
KEYS = (
    keyed(
        "key-open-to-others",
        "Make the private key readable by everybody",
        lambda scene: scene.key("ada").chmod(0o644),
        "trust.key_permissions",
        "its mode is 0644",
    ),
    keyed(
        "key-cut",
        "Cut the private key short",
        lambda scene: scene.key("ada").write_bytes(scene.key("ada").read_bytes()[:120]),
        "trust.key_damaged",
        "it is not one whole PEM block",
    ),
    keyed(
        "key-corrupt",
        "Overwrite its middle",
        lambda scene: scene.key("ada").write_bytes(scene.key("ada").read_bytes().replace(b"MIG", b"AAA", 1)),
        "trust.key_damaged",
        "its contents",
    ),
    keyed(
        "key-swapped",
        "Put a key that nobody trusts in its place",
        _swapped,
        "registry.untrusted_identity",
        "is not trusted here",
    ),
    keyed(
        "key-of-another-curve",
        "Put a key on P-384 in its place",
        _other_key(ec.generate_private_key(ec.SECP384R1())),
        "trust.key_curve",
        "on the curve 'secp384r1'",
    ),
    keyed(
        "key-of-another-kind",
        "Put an RSA key in its place",
        _other_key(rsa.generate_private_key(65537, 2048)),
        "trust.key_type",
        "it is a RSA key",
    ),
    keyed(
        "key-is-a-fifo",
        "Put a FIFO in its place, so that whoever signs waits for ever",
        _fifo,
        "trust.key_damaged",
        "it is no regular file",
    ),
    Attack(
        "passphrase-guessed",
        Threat.KEYS,
        Has.HOME,
        "Sign with an encrypted key and a guessed passphrase",
        _guessed,
        SIGN,
        "trust.passphrase_wrong",
        "the passphrase is wrong",
        given=_locked,
    ),
    Attack(
        "private-key-shown-around",
        Threat.KEYS,
        Has.LOGIN,
        "Offer a private key where a public one is asked for",
        _key_file(lambda scene: scene.key("eve").read_bytes()),
        TRUST_EVE,
        "trust.key_type",
        "it is a private key",
        honest=OFFERED,
    ),
    Attack(
        "two-keys-in-one-file",
        Threat.KEYS,
        Has.LOGIN,
        "Offer a file with two public keys, of which one was shown",
        _key_file(lambda scene: b"".join(scene.public_key(name).read_bytes() for name in ("eve", "olga"))),
        TRUST_EVE,
        "trust.key_damaged",
        "it is not one whole PEM block",
        honest=OFFERED,
    ),
)


def as_(name: str) -> Deed:
    """Act as somebody else."""

    def spoil(scene: Scene) -> None:
        scene.identity = name

    return spoil


def person(id_: str, deed: str, spoil: Deed, act: Run, code: str, says: str, **more: Deed) -> Attack:
    """Return an attack by somebody with an identity of their own."""
    return Attack(id_, Threat.PEOPLE, Has.LOGIN, deed, spoil, act, code, says, **more)


def _rita_leaves(scene: Scene) -> None:
    """Have rita approve, and then revoke her key."""
    with scene.opened("rita") as rita:
        rita.approve(Ref("sly", 1), actor="rita", reason="a parting gift")
    with scene.opened("ada") as ada:
        ada.identities.trust("rex", _new_key(scene, "rex"), ["reviewer"], actor="ada")
        ada.identities.revoke("rita", actor="ada", reason="left")


def _rita_and_rex(scene: Scene) -> None:
    with scene.opened("rita") as rita:
        rita.approve(Ref("sly", 1), actor="rita", reason="read its answers")
    with scene.opened("ada") as ada:
        ada.identities.trust("rex", _new_key(scene, "rex"), ["reviewer"], actor="ada")


def _new_key(scene: Scene, name: str):
    with scene.opened("ada") as ada:
        ada.identities.create(name, actor="ada")
    return scene.home / f"keys/{name}.pem.pub"


def _approved(scene: Scene) -> None:
    scene.go_live("sly", until=Stage.APPROVED)


def _last_operator(scene: Scene) -> None:
    revoking("oscar")(scene)
    scene.name = "ada"


def _shown_by(name: str) -> Deed:
    return _key_file(lambda scene: scene.public_key(name).read_bytes())


APPROVE = run("approve sly@1 --reason fine", by="rita")
PEOPLE = (
    person(
        "self-approval",
        "Approve what one added oneself, being a reviewer too",
        as_("ada"),
        APPROVE,
        "registry.self_approval",
        "ada added it",
    ),
    person(
        "approval-without-the-role",
        "Approve as a contributor",
        as_("carl"),
        APPROVE,
        "trust.role",
        "it takes reviewer, and carl is contributor",
    ),
    person(
        "approval-by-an-operator",
        "Approve as an operator",
        as_("oscar"),
        APPROVE,
        "trust.role",
        "it takes reviewer, and oscar is operator",
    ),
    person(
        "approval-by-a-stranger",
        "Approve with a key that nobody trusts",
        as_("eve"),
        APPROVE,
        "registry.untrusted_identity",
        "is not trusted here",
    ),
    person(
        "approval-after-revocation",
        "Approve after one's key was revoked",
        revoking("rita"),
        APPROVE,
        "registry.untrusted_identity",
        "was revoked",
    ),
    person(
        "promotion-without-approval",
        "Promote without waiting for an approval",
        lambda scene: None,
        run("promote sly@1", by="rita"),
        "registry.policy_denied",
        "0 of 1 count",
        honest=APPROVE,
    ),
    person(
        "approval-outlives-its-key",
        "Promote on an approval whose signer was revoked",
        _rita_leaves,
        run("promote sly@1", by="rex"),
        "registry.policy_denied",
        "0 of 1 count",
        honest=_rita_and_rex,
    ),
    person(
        "live-without-the-role",
        "Take an approved version live as a reviewer",
        as_("rita"),
        run("promote sly@1 --to live", by="oscar"),
        "registry.policy_denied",
        "role:operator",
        given=_approved,
    ),
    person(
        "all-rungs-at-once",
        "Take a draft to live in one command as an operator",
        lambda scene: None,
        run("promote raw@1 --to live", by="oscar"),
        "registry.policy_denied",
        "role:reviewer",
        honest=lambda scene: scene.go_live("raw", until=Stage.APPROVED),
    ),
    person(
        "revocation-without-the-role",
        "Revoke a version as a contributor",
        as_("carl"),
        run("revoke bot@1 --reason spite --yes", by="rita"),
        "trust.role",
        "it takes operator or reviewer",
    ),
    person(
        "own-roles-raised",
        "Give oneself the role of an operator",
        as_("rita"),
        run("identity trust rita {key} --role operator"),
        "trust.role",
        "it takes operator",
        given=_shown_by("rita"),
    ),
    person(
        "stranger-trusted",
        "Trust a friend's key as a reviewer",
        as_("rita"),
        TRUST_EVE,
        "trust.role",
        "it takes operator, and rita is reviewer",
        given=OFFERED,
    ),
    person(
        "revoked-key-comes-back",
        "Have a revoked key trusted again",
        revoking("rita"),
        run("identity trust rita {key} --role operator"),
        "trust.identity",
        "revoked",
        given=_shown_by("rita"),
    ),
    person(
        "key-under-two-names",
        "Have one's key trusted under a second name, to be two pairs of eyes",
        lambda scene: None,
        run("identity trust rex {key} --role reviewer"),
        "trust.identity",
        "rita",
        given=_shown_by("rita"),
        honest=OFFERED,
    ),
    person(
        "somebody-else's-key",
        "Choose the identity of somebody whose private key one does not have",
        lambda scene: scene.key("rita").unlink(),
        APPROVE,
        "registry.no_such_identity",
        "no identity 'rita'",
    ),
    person(
        "last-operator-revoked",
        "Revoke the last operator, so that nobody can ever change identities",
        _last_operator,
        run("identity revoke {name} --reason coup --yes"),
        "trust.last_operator",
        "the last key of an operator",
        given=lambda scene: setattr(scene, "name", "olga"),
    ),
    person(
        "checkpoint-without-a-key",
        "Sign a new checkpoint over an old database with a key that nobody trusts",
        as_("eve"),
        run("audit checkpoint --reason restored --yes"),
        "registry.untrusted_identity",
        "is not trusted here",
    ),
)


def policy(id_: str, deed: str, text: str | bytes, code: str, says: str) -> Attack:
    """Return an attack by what the policy says."""
    data = text if isinstance(text, bytes) else text.encode()
    return Attack(id_, Threat.POLICY, Has.HOME, deed, lambda scene: scene.policy.write_bytes(data), SIGN, code, says)


FILE = "registry.policy_file"
POLICY = (
    policy("policy-emptied", "Empty `policy.toml`", "", "registry.policy_denied", "cannot promote raw@1 to candidate"),
    policy(
        "policy-without-a-rung",
        "Remove the rule of a rung",
        REVIEWED.replace('[adapter.candidate]\nby = ["anyone"]\n', ""),
        FILE,
        "adapter.approved can never be entered",
    ),
    policy("policy-cut", "Cut it in the middle of a line", REVIEWED[:48], FILE, "policy.toml line 3"),
    policy(
        "policy-with-a-typo",
        "Ask for `aprovals`, which would ask for nothing",
        REVIEWED.replace("approvals", "aprovals"),
        FILE,
        "policy.toml line 6",
    ),
    policy(
        "policy-with-a-wrong-type",
        "Ask for `count = true` approvals",
        REVIEWED.replace("count = 1", "count = true"),
        FILE,
        "policy.toml line 7",
    ),
    policy(
        "policy-contradicts-itself",
        "Ask for evaluations of at least 0.9 and at most 0.1",
        REVIEWED + '[[adapter.live.evidence]]\ntype = "eval"\nmetrics = { "acc" = { min = 0.9, max = 0.1 } }\n',
        FILE,
        "policy.toml line 13",
    ),
    policy(
        "policy-with-a-role-that-is-none",
        "Let `role:admin` climb",
        REVIEWED.replace("role:operator", "role:admin"),
        FILE,
        "policy.toml line 10",
    ),
    policy("policy-not-utf8", "Write it in another encoding", REVIEWED.encode("utf-16"), FILE, "policy.toml"),
    policy("policy-oversize", "Pad it to a megabyte", "#" * 2**20 + "\n" + REVIEWED, FILE, "policy.toml"),
)


def _policy_fifo(scene: Scene) -> None:
    scene.policy.unlink()
    os.mkfifo(scene.policy)


POLICY_FILES = (
    Attack(
        "policy-is-a-fifo",
        Threat.POLICY,
        Has.HOME,
        "Put a FIFO in its place, so that whoever promotes waits for ever",
        _policy_fifo,
        SIGN,
        "registry.storage",
        "it is no regular file",
    ),
)
ATTACKS: tuple[Attack, ...] = (*KEYS, *PEOPLE, *POLICY, *POLICY_FILES)
