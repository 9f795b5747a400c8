import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta

import pytest

from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage, Verb
from loractl_registry.trust import (
    Addition,
    AdditionStatement,
    AdmissionVerb,
    Approval,
    ApprovalStatement,
    BaseAdmission,
    BaseRef,
    BaseStatement,
    BreakGlass,
    BreakGlassStatement,
    Checkpoint,
    EvidenceStatement,
    EvidenceType,
    FileSigning,
    FileSigningStatement,
    IdentityChange,
    IdentityStatement,
    IdentityVerb,
    Inventory,
    InventoryStatement,
    OlderVersion,
    Promotion,
    PromotionStatement,
    Revocation,
    RevocationStatement,
    Role,
    Signer,
    StepDown,
    StepDownStatement,
    Testimony,
    base_subject,
    create_key,
    home_id,
    home_subject,
    identity_subject,
    sign_checkpoint,
    sign_statement,
    subject_of,
    verify_chain,
)

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
NONCE = "0123456789abcdef" * 2
CONTENT, POLICY, BASE, EVIDENCE = (f"sha256:{digit * 64}" for digit in "abcd")


class Home:
    """Writes a chain as a registry would, and leaves it to the test what to do with it."""

    def __init__(self, *, root="ada", nonce=NONCE, key=None):
        self.now = NOW
        self.keys = {root: key or create_key()}
        self.owners = {root: root}
        self.id = home_id(self.keys[root].public.key_id, nonce)
        self.envelopes = []
        self.chain = None
        key = self.keys[root]
        predicate = self.identity_change(root, root, IdentityVerb.CREATE, roles=tuple(Role), nonce=nonce)
        self.take(IdentityStatement(subject=identity_subject(root, key.public.key_id), predicate=predicate), by=root)

    @property
    def trust(self):
        return self.chain.trust

    def common(self, by, **changes):
        """What every predicate says; `by` is the name that the test has for a key."""
        signer = Signer(identity=self.owners[by], key_id=self.keys[by].public.key_id)
        chain = self.chain
        place = {"sequence": 1, "previous": None}
        if chain is not None:
            place = {"sequence": chain.sequence + 1, "previous": chain.head}
        return {"home": self.id, "at": self.now, "signer": signer, **place, **changes}

    def take(self, statement, *, by):
        envelope = sign_statement(statement, self.keys[by])
        self.chain = verify_chain([envelope], now=self.now, after=self.chain)
        self.envelopes.append(envelope)
        return envelope

    def key(self, name, *, of=None):
        """Make a key that the test calls `name`, of the identity `of`."""
        self.keys[name] = create_key()
        self.owners[name] = of or name
        return self.keys[name]

    def identity_change(self, by, name, verb, *, roles=(), nonce=None, **changes):
        pem = None if verb is IdentityVerb.REVOKE else self.keys[name].public.pem
        return IdentityChange(verb=verb, roles=roles, public_key=pem, nonce=nonce, **self.common(by, **changes))

    def identity(self, by, name, verb, *, roles=(), **changes):
        subject = identity_subject(self.owners[name], self.keys[name].public.key_id)
        return IdentityStatement(
            subject=subject, predicate=self.identity_change(by, name, verb, roles=roles, **changes)
        )

    def trusts(self, name, *roles, by="ada", of=None):
        if name not in self.keys:
            self.key(name, of=of)
        return self.take(self.identity(by, name, IdentityVerb.TRUST, roles=roles), by=by)

    def revokes(self, name, *, by="ada"):
        return self.take(self.identity(by, name, IdentityVerb.REVOKE), by=by)

    def terms(self, by, **changes):
        terms = {
            "policy": POLICY,
            "from_stage": Stage.CANDIDATE,
            "to_stage": Stage.APPROVED,
            "base": BaseRef(name="tiny-moe", digest=BASE),
            "tenants": ("acme",),
            "data_classes": ("public",),
            "expires": self.now + timedelta(days=90),
            "evidence": (EVIDENCE,),
        }
        return self.common(by, **{**terms, **changes})

    def promotion(self, *, by="ada", ref="bot@3", digest=CONTENT, **changes):
        return PromotionStatement(subject=subject(ref, digest), predicate=Promotion(**self.terms(by, **changes)))

    def approval(self, *, by="ada", **changes):
        return ApprovalStatement(subject=subject(), predicate=Approval(**self.terms(by, **changes)))

    def addition(self, *, by="ada", **changes):
        said = {"added_by": "Ada", "provenance": POLICY, "signatures": (), **changes}
        return AdditionStatement(subject=subject(), predicate=Addition(policy=POLICY, **self.common(by), **said))

    def file_signing(self, *, by="ada", **changes):
        said = FileSigning(policy=POLICY, **self.common(by), signature=EVIDENCE, **changes)
        return FileSigningStatement(subject=subject(), predicate=said)

    def inventory(self, *, by="ada", **changes):
        older = (OlderVersion(name="bot@3", digest=CONTENT),)
        said = {"versions": older, "is_last": True, "reason": "older", **changes}
        return InventoryStatement(subject=home_subject(self.id), predicate=Inventory(**self.common(by), **said))

    def testimony(self, *, by="ada", **changes):
        said = {"evidence": POLICY, "type": EvidenceType.EVAL, "kind": "lm-eval", "passed": None, "metrics": POLICY}
        terms = {**self.common(by), **said, **changes}
        return EvidenceStatement(subject=subject(), predicate=Testimony(policy=POLICY, **terms))

    def break_glass(self, *, by="ada", **changes):
        expires = self.now + timedelta(hours=4)
        terms = self.terms(by, **{"expires": expires, "reason": "the night shift is down", **changes})
        return BreakGlassStatement(subject=subject(), predicate=BreakGlass(**terms))

    def step_down(self, *, by="ada", **changes):
        said = {"verb": Verb.DEMOTE, "from_stage": Stage.LIVE, "to_stage": Stage.APPROVED, "reason": "slow", **changes}
        return StepDownStatement(subject=subject(), predicate=StepDown(policy=POLICY, **self.common(by), **said))

    def base(self, *, by="ada", name="tiny-moe", digest=BASE, **changes):
        said = {"verb": AdmissionVerb.ADMIT, "source": "hf:o/tiny-moe@1", "licence": "mit", "evidence": (), **changes}
        predicate = BaseAdmission(policy=POLICY, **self.common(by), **said)
        return BaseStatement(subject=base_subject(name, digest), predicate=predicate)

    def revocation(self, *, by="ada", **changes):
        said = self.common(by, **{"from_stage": Stage.LIVE, "reason": "leaks a name", **changes})
        return RevocationStatement(subject=subject(), predicate=Revocation(policy=POLICY, **said))

    def promotes(self, *, by="ada", **changes):
        return self.take(self.promotion(by=by, **changes), by=by)

    def sign(self, statement, *, by="ada"):
        return sign_statement(statement, self.keys[by])

    def checkpoint(self, *, by="ada", **changes):
        signer = Signer(identity=self.owners[by], key_id=self.keys[by].public.key_id)
        said = {"home": self.id, "sequence": self.chain.sequence, "head": self.chain.head, "at": self.now, **changes}
        return sign_checkpoint(Checkpoint(signer=signer, **said), self.keys[by])


def subject(ref="bot@3", digest=CONTENT):
    name, _, number = ref.partition("@")
    return subject_of(VersionRef(name, int(number)), digest)


class Envelopes:
    """Takes envelopes apart and puts them together wrongly."""

    @staticmethod
    def fields(envelope):
        return json.loads(envelope)

    @staticmethod
    def payload(envelope):
        return b64decode(json.loads(envelope)["payload"])

    @staticmethod
    def changed(envelope, **fields):
        return json.dumps({**json.loads(envelope), **fields}).encode()

    @staticmethod
    def with_payload(envelope, payload):
        return json.dumps({**json.loads(envelope), "payload": b64encode(payload).decode()}).encode()


@pytest.fixture
def home():
    return Home()


@pytest.fixture(scope="session")
def new_home():
    return Home


@pytest.fixture(scope="session")
def envelopes():
    return Envelopes


@pytest.fixture
def team(home):
    """A home with one more identity of each role."""
    for role in Role:
        home.trusts(f"the-{role}", role)
    return home


@pytest.fixture
def busy(home):
    """A chain of six: two identities trusted, three promotions."""
    home.trusts("bob", Role.REVIEWER)
    home.promotes(ref="bot@1")
    home.trusts("eve", Role.CONTRIBUTOR)
    home.promotes(by="bob", ref="bot@2")
    home.promotes(ref="bot@3")
    return home
