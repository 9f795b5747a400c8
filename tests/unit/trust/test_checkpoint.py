"""Checkpoints and their witnesses: rollback, fork, and what happens to the files."""

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry.errors import RegistryError
from loractl_registry.trust import (
    Checkpoint,
    FileWitness,
    GitWitness,
    Role,
    Signer,
    check_against,
    check_witness,
    sign_checkpoint,
    verify_chain,
    verify_checkpoint,
)
from loractl_registry.trust.checkpoint import PAYLOAD_TYPE
from loractl_registry.trust.envelope import MAX_ENVELOPE_BYTES, sign_envelope
from loractl_registry.trust.errors import (
    EnvelopeError,
    ForeignHomeError,
    ForkError,
    FromTheFutureError,
    GitWitnessError,
    KeyRevokedError,
    MissingCheckpointError,
    RollbackError,
    SignatureInvalidError,
    StatementError,
    TrustError,
    UnknownSignerError,
    WrongSignerError,
)
from loractl_registry.trust.fields import canonical_bytes


@pytest.fixture
def witness(tmp_path):
    return FileWitness(tmp_path / "head.json")


@pytest.fixture
def grown(home):
    home.promotes(ref="bot@1")
    home.promotes(ref="bot@2")
    return home


def verify(home, envelope, now=None):
    return verify_checkpoint(envelope, home.trust, now or home.now)


def test_checkpoint_is_read_back_as_it_was_signed(grown):
    checkpoint = verify(grown, grown.checkpoint())

    assert (checkpoint.home, checkpoint.sequence, checkpoint.head) == (grown.id, 3, grown.chain.head)


def test_chain_that_goes_on_from_a_checkpoint_passes(grown, witness):
    witness.write(grown.checkpoint())
    grown.promotes(ref="bot@3")

    assert check_witness(witness, grown.chain, grown.now).sequence == 3


def test_restored_database_is_a_rollback(grown, witness):
    witness.write(grown.checkpoint())
    old = verify_chain(grown.envelopes[:2], now=grown.now)

    with pytest.raises(RollbackError, match="ends at sequence 2, and a signed checkpoint has seen 3"):
        check_witness(witness, old, grown.now)


def test_rollback_to_before_the_signer_was_trusted_is_named_too(home, witness):
    home.trusts("bob", Role.AUDITOR)
    witness.write(home.checkpoint(by="bob"))
    old = verify_chain(home.envelopes[:1], now=home.now)

    with pytest.raises(RollbackError):
        check_witness(witness, old, home.now)


def test_other_history_is_a_fork_also_when_it_is_longer(grown, witness):
    witness.write(grown.checkpoint())
    short = verify_chain(grown.envelopes[:2], now=grown.now)
    grown.chain = short
    grown.promotes(ref="evil@1")

    with pytest.raises(ForkError, match="at sequence 3"):
        check_witness(witness, grown.chain, grown.now)
    grown.promotes(ref="evil@2")
    with pytest.raises(ForkError):
        check_witness(witness, grown.chain, grown.now)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 8))
def test_check_finds_rollback_and_fork_and_nothing_else(seen, held, differs_from):
    honest = [f"sha256:{number:064x}" for number in range(1, 9)]
    digests = [digest if index < differs_from else "sha256:" + "f" * 64 for index, digest in enumerate(honest[:held])]
    signer = Signer(identity="ada", key_id="a" * 64)
    checkpoint = Checkpoint(
        home="b" * 64, sequence=seen, head=honest[seen - 1], at="2026-01-31T09:00:00Z", signer=signer
    )

    if held < seen:
        with pytest.raises(RollbackError):
            check_against(checkpoint, digests)
    elif differs_from < seen:
        with pytest.raises(ForkError):
            check_against(checkpoint, digests)
    else:
        check_against(checkpoint, digests)


def test_checkpoint_by_a_stranger_is_refused(grown, new_home, witness):
    stranger = new_home()
    witness.write(stranger.checkpoint())

    with pytest.raises(UnknownSignerError):
        check_witness(witness, grown.chain, grown.now)


def test_checkpoint_of_another_home_is_refused(home, new_home):
    other = new_home(nonce="f" * 32, key=home.keys["ada"])

    with pytest.raises(ForeignHomeError):
        verify(home, other.checkpoint())


def test_statement_does_not_pass_for_a_checkpoint(home):
    with pytest.raises(EnvelopeError, match="payload type"):
        verify(home, home.envelopes[0])


@pytest.mark.parametrize("role", Role)
def test_every_role_may_sign_checkpoints(team, role):
    assert verify(team, team.checkpoint(by=f"the-{role}")).sequence == team.chain.sequence


def test_key_of_the_newest_statement_may_sign_it(home):
    home.trusts("bob", Role.AUDITOR)

    assert verify(home, home.checkpoint(by="bob"))


def test_revoked_key_counts_for_what_it_saw(home):
    home.trusts("bob", Role.AUDITOR)
    before = home.checkpoint(by="bob")
    home.revokes("bob")

    assert verify(home, before).sequence == 2
    with pytest.raises(KeyRevokedError):
        verify(home, home.checkpoint(by="bob"))


def test_signer_must_be_the_one_that_it_names(home):
    home.trusts("bob", Role.AUDITOR)
    checkpoint = verify(home, home.checkpoint())

    with pytest.raises(WrongSignerError):
        sign_checkpoint(checkpoint, home.keys["bob"])
    with pytest.raises(WrongSignerError):
        verify(home, sign_envelope(canonical_bytes(checkpoint), PAYLOAD_TYPE, home.keys["bob"]))


def test_checkpoint_from_the_future_is_refused(home):
    with pytest.raises(FromTheFutureError):
        verify(home, home.checkpoint(), home.now - timedelta(minutes=6))


def test_checkpoint_cut_at_any_byte_is_refused(home, witness):
    envelope = home.checkpoint()
    for end in range(len(envelope)):
        with pytest.raises(EnvelopeError):
            verify(home, envelope[:end])


def test_no_flipped_bit_of_a_checkpoint_passes(home, envelopes):
    envelope = home.checkpoint()
    payload = envelopes.payload(envelope)
    for index in range(len(payload)):
        damaged = bytearray(payload)
        damaged[index] ^= 1 << (index % 8)
        with pytest.raises(SignatureInvalidError):
            verify(home, envelopes.with_payload(envelope, bytes(damaged)))


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0}, {"sequence": "1"}, {"head": "sha256:0"}, {"version": 2}, {"extra": 1}, {"at": "now"},
        {"signer": None}, {"home": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_checkpoint_is_refused_even_if_signed(home, envelopes, change):
    body = {**json.loads(envelopes.payload(home.checkpoint())), **change}

    with pytest.raises(StatementError):
        verify(home, sign_envelope(json.dumps(body).encode(), PAYLOAD_TYPE, home.keys["ada"]))


@pytest.mark.parametrize("rewrite", [lambda text: text + b" ", lambda text: text.replace(b"{", b'{"at":"x",', 1)])
def test_checkpoint_has_one_text(home, envelopes, rewrite):
    text = envelopes.payload(home.checkpoint())

    with pytest.raises(StatementError):
        verify(home, sign_envelope(rewrite(text), PAYLOAD_TYPE, home.keys["ada"]))


def test_missing_witness_is_named(home, tmp_path):
    for path in (tmp_path / "head.json", tmp_path / "no" / "head.json"):
        with pytest.raises(MissingCheckpointError, match=str(path)):
            check_witness(FileWitness(path), home.chain, home.now)


def test_file_is_replaced_in_one_step_and_leaves_nothing_else(witness):
    witness.write(b"first")
    witness.write(b"second")

    assert witness.read() == b"second"
    assert [each.name for each in witness.path.parent.iterdir()] == ["head.json"]
    assert witness.path.stat().st_mode & 0o777 == 0o644


def test_failed_write_leaves_the_file_as_it_was(witness, monkeypatch):
    witness.write(b"first")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RegistryError, match="no space left"):
        witness.write(b"second")

    assert [each.read_bytes() for each in witness.path.parent.iterdir()] == [b"first"]


def test_unmounted_witness_cannot_be_written(tmp_path):
    with pytest.raises(RegistryError):
        FileWitness(tmp_path / "stick" / "head.json").write(b"x")


def test_huge_or_odd_file_is_refused_without_reading_it(home, witness):
    witness.write(b"[" * (2 * MAX_ENVELOPE_BYTES))
    with pytest.raises(EnvelopeError, match="larger than"):
        check_witness(witness, home.chain, home.now)

    witness.path.unlink()
    os.mkfifo(witness.path)
    with pytest.raises(RegistryError, match="no regular file"):
        witness.read()


class Repository:
    def __init__(self, folder):
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1"}
        self.git("init", "--quiet")
        self.witness = GitWitness(folder / "loractl.json", self.environment)

    def git(self, *arguments):
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True).stdout

    def write(self, name, text, mode=0o644):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "repo").mkdir()
    return Repository(tmp_path / "repo")


def test_git_remembers_every_checkpoint(grown, repository):
    first = grown.checkpoint()
    repository.witness.write(first)
    grown.promotes(ref="bot@3")
    repository.witness.write(grown.checkpoint())

    assert repository.git("show", "HEAD~1:loractl.json") == first
    assert check_witness(repository.witness, grown.chain, grown.now).sequence == 4


def test_same_checkpoint_again_is_no_commit(home, repository):
    envelope = home.checkpoint()
    repository.witness.write(envelope)
    repository.witness.write(envelope)

    assert repository.git("rev-list", "--count", "HEAD").strip() == b"1"


def test_git_is_read_from_the_commit_and_not_from_the_work_tree(home, repository):
    envelope = home.checkpoint()
    repository.witness.write(envelope)
    repository.witness.path.write_bytes(b"older")

    assert repository.witness.read() == envelope


def test_commit_takes_nothing_else_along(home, repository):
    repository.write("staged.txt", "mine")
    repository.git("add", "staged.txt")

    repository.witness.write(home.checkpoint())

    assert repository.git("ls-tree", "--name-only", "HEAD").split() == [b"loractl.json"]
    assert repository.git("diff", "--cached", "--name-only").split() == [b"staged.txt"]


def test_ignored_file_is_committed_all_the_same(home, repository):
    repository.write(".gitignore", "*.json")

    repository.witness.write(home.checkpoint())

    assert repository.witness.read()


@pytest.mark.parametrize("hook", ["pre-commit", "commit-msg", "prepare-commit-msg", "post-commit", "post-index-change"])
def test_no_hook_runs(home, repository, hook):
    repository.write(f".git/hooks/{hook}", f"#!/bin/sh\ntouch '{repository.folder}/ran'\nexit 1\n", 0o755)

    repository.witness.write(home.checkpoint())

    assert not (repository.folder / "ran").exists()


def test_no_program_of_the_configuration_runs(home, repository):
    program = repository.folder / "program"
    repository.write("program", f"#!/bin/sh\ntouch '{repository.folder}/ran'\nexit 1\n", 0o755)
    for name, value in (("core.fsmonitor", program), ("gpg.program", program), ("commit.gpgSign", "true")):
        repository.git("config", name, str(value))

    repository.witness.write(home.checkpoint())

    assert not (repository.folder / "ran").exists()


def test_environment_does_not_lead_git_elsewhere(home, repository, tmp_path):
    (tmp_path / "other").mkdir()
    other = Repository(tmp_path / "other")
    environment = {**repository.environment, "GIT_DIR": str(other.folder / ".git"), "GIT_WORK_TREE": str(other.folder)}

    GitWitness(repository.witness.path, environment).write(home.checkpoint())

    assert repository.witness.read()
    with pytest.raises(MissingCheckpointError):
        other.witness.read()


def test_odd_file_name_is_only_a_name(home, repository):
    witness = GitWitness(repository.folder / "-f :(top)*.json", repository.environment)
    witness.write(home.checkpoint())

    assert witness.read()


def test_missing_commit_is_named(repository):
    with pytest.raises(MissingCheckpointError, match=r"loractl\.json at HEAD"):
        repository.witness.read()


def test_folder_outside_git_is_refused(home, tmp_path):
    environment = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    for path in (tmp_path / "head.json", tmp_path / "no" / "head.json"):
        for use in (lambda witness: witness.write(home.checkpoint()), lambda witness: witness.read()):
            with pytest.raises(GitWitnessError):
                use(GitWitness(path, environment))
    assert list(tmp_path.iterdir()) == []


def test_git_that_fails_says_why(home, repository):
    repository.write(".git/index.lock", "")

    with pytest.raises(GitWitnessError, match=r"git add: fatal: .*index\.lock"):
        repository.witness.write(home.checkpoint())


def test_missing_git_is_said(home, repository, tmp_path):
    with pytest.raises(GitWitnessError, match="not installed"):
        GitWitness(repository.witness.path, {"PATH": str(tmp_path)}).read()


def test_git_that_hangs_is_ended(repository, tmp_path):
    repository.write("bin/git", "#!/bin/sh\nexec sleep 30\n", 0o755)
    environment = {"PATH": f"{repository.folder}/bin:{os.environ['PATH']}"}

    with pytest.raises(GitWitnessError, match=r"took more than 0\.2 s"):
        GitWitness(repository.witness.path, environment, timeout_s=0.2).read()


def test_every_refusal_is_one_of_the_trust_component(home):
    with pytest.raises(TrustError) as caught:
        verify(home, b"")

    assert caught.value.code.startswith("trust.")
