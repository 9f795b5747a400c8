"""Adding versions and admitting bases."""

import json
import shutil

import pytest
from support.registry import write_adapter, write_base

from loractl_registry import ProvenanceInput, Ref, Registry, Stage, UsageError, VersionRef
from loractl_registry.errors import InvalidNameError
from loractl_registry.file_errors import SourceNotFoundError, UnsafeFileError
from loractl_registry.hub import HubFiles
from loractl_registry.records import Provenance
from loractl_registry.refusals import (
    BaseDiffersError,
    BaseInUseError,
    BaseNotFoundError,
    BoundElsewhereError,
    NameTakenError,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: mit\ndatasets:\n- tickets\nbase_model: tiny-moe\n---\n# Bot\n"


def tree(home):
    return sorted(str(path.relative_to(home)) for path in (home / "store").rglob("*") if path.is_file())


def test_add_stores_a_draft_with_what_is_known(registry, base, tmp_path, clock):
    folder = write_adapter(tmp_path / "a")

    added = registry.add("bot", str(folder), actor="ada", provenance=ProvenanceInput(note="first"))

    version = added.version
    assert added.is_new
    assert (version.ref, version.stage, version.base) == (VersionRef("bot", 1), Stage.DRAFT, "tiny-moe")
    assert version.base_digest == base.digest
    assert version.provenance == Provenance(str(folder), note="first")
    assert (version.added_by, version.added_at <= clock.now) == ("ada", True)
    assert sorted(path.name for path in version.path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    event = registry.history("bot")[0]
    assert (event.action, event.from_stage, event.to_stage) == ("adapter.add", None, Stage.DRAFT)
    assert event.detail["digest"] == version.digest
    assert event.detail["base"] == "tiny-moe"


def test_card_and_flags_become_provenance(registry, base, tmp_path):
    folder = write_adapter(tmp_path / "a", base=None)
    (folder / "README.md").write_text(CARD)

    version = registry.add("bot", str(folder), actor="ada", provenance=ProvenanceInput(("mails",))).version

    assert version.provenance.licence == "mit"
    assert version.provenance.datasets == ("tickets", "mails")


def test_same_bytes_again_are_the_same_version(registry, add):
    first = add()
    before = registry.history()

    again = registry.add("bot", str(first.provenance.source), actor="grace")

    assert not again.is_new
    assert again.version == first
    assert registry.history() == before


def test_same_bytes_under_another_name_share_the_folder(registry, add, home):
    first, second = add("bot", 0), add("other", 0)

    assert first.path == second.path
    assert second.ref == VersionRef("other", 1)
    assert len(tree(home)) == 2


def test_numbers_go_up_and_are_never_used_twice(registry, add):
    assert [add("bot", seed).ref.number for seed in range(3)] == [1, 2, 3]
    registry.revoke(Ref("bot", 3), actor="ada", reason="x")
    registry.gc(dry_run=False)

    assert add("bot", 9).ref.number == 4


def test_said_base_binds_a_version_that_had_none(registry, tmp_path):
    folder = str(write_adapter(tmp_path / "a", base=None))
    assert registry.add("bot", folder, actor="ada").version.base is None
    registry.add_base("one", str(write_base(tmp_path / "one", seed=1)), actor="ada")
    registry.add_base("two", str(write_base(tmp_path / "two", seed=2)), actor="ada")
    assert registry.add("bot", folder, actor="ada").version.base is None

    added = registry.add("bot", folder, actor="ada", base="two")

    assert (added.is_new, added.version.base) == (False, "two")
    assert registry.history("bot")[-1].action == "adapter.bind"
    assert registry.add("bot", folder, actor="ada", base="two").version == added.version
    with pytest.raises(BoundElsewhereError):
        registry.add("bot", folder, actor="ada", base="one")


def test_base_of_a_revoked_version_is_left_alone(registry, tmp_path):
    folder = str(write_adapter(tmp_path / "a", base=None))
    registry.add("bot", folder, actor="ada")
    registry.revoke(Ref("bot", 1), actor="ada", reason="x")
    registry.add_base("one", str(write_base(tmp_path / "one")), actor="ada")

    assert registry.add("bot", folder, actor="ada", base="one").version.base is None


def test_adding_again_restores_damaged_files(registry, add):
    version = add()
    weights = version.path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"junk")

    again = registry.add("bot", version.provenance.source, actor="grace")

    assert not again.is_new
    assert registry.verify()[0].is_intact
    assert registry.history("bot")[-1].action == "adapter.restore"


def test_adding_collected_bytes_again_does_not_bring_them_back_under_that_name(registry, add, home):
    version = add()
    registry.revoke(Ref("bot", 1), actor="ada", reason="x")
    registry.gc(dry_run=False)

    again = registry.add("bot", version.provenance.source, actor="ada")

    assert again.version.stage is Stage.REVOKED
    assert tree(home) == []
    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_collected_bytes_come_back_under_another_name(registry, add):
    version = add()
    registry.promote(Ref("bot", 1), actor="ada")
    registry.reject(Ref("bot", 1), actor="ada", reason="x")
    registry.gc(dry_run=False)

    other = registry.add("other", version.provenance.source, actor="ada").version

    assert other.path.is_dir()
    assert all(one.is_intact and one.collected_at is None for one in registry.verify())


@pytest.mark.parametrize("name", ["", "Bot", "a/b", "a:b", "bot@1", "-x", "x" * 64, "é"])
def test_bad_name_is_refused_before_anything_is_read(registry, name):
    with pytest.raises(InvalidNameError):
        registry.add(name, "/nowhere", actor="ada")


def test_adapter_cannot_have_the_name_of_a_base_nor_a_base_that_of_an_adapter(registry, add, tmp_path):
    add("bot")

    with pytest.raises(NameTakenError):
        registry.add("tiny-moe", str(tmp_path / "adapter-0"), actor="ada")
    with pytest.raises(NameTakenError):
        registry.add_base("bot", str(write_base(tmp_path / "b2", seed=5)), actor="ada")


def test_base_that_is_not_admitted_is_refused_before_copying(registry, tmp_path):
    with pytest.raises(BaseNotFoundError):
        registry.add("bot", str(tmp_path / "absent"), actor="ada", base="absent")


@pytest.mark.parametrize("spoil", ["pickle", "absent"])
def test_refused_files_leave_nothing(registry, base, tmp_path, home, spoil):
    folder = write_adapter(tmp_path / "a")
    if spoil == "pickle":
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04")
    else:
        shutil.rmtree(folder)

    with pytest.raises((UnsafeFileError, SourceNotFoundError)):
        registry.add("bot", str(folder), actor="ada")

    assert registry.versions() == ()
    assert tree(home) == []


def test_failed_commit_leaves_no_folder(registry, base, tmp_path, home, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr("loractl_registry._store.versions.insert", fail)

    with pytest.raises(RuntimeError):
        registry.add("bot", str(write_adapter(tmp_path / "a")), actor="ada")

    assert tree(home) == []
    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_failed_commit_keeps_the_folder_that_another_version_needs(registry, add, monkeypatch):
    version = add("bot", 0)

    def fail(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr("loractl_registry._store.versions.insert", fail)
    with pytest.raises(RuntimeError):
        registry.add("other", version.provenance.source, actor="ada")

    assert registry.verify()[0].is_intact


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the network: the files are in a folder, the commit is known."""
    from contextlib import contextmanager

    asked = []

    @contextmanager
    def fetched_adapter(source, scratch, progress):
        asked.append(str(source))
        found = Provenance(f"hf:{source.repository}@{COMMIT}", COMMIT, "o", "mit", ("tickets",))
        yield HubFiles(write_adapter(tmp_path / "fetched", base=None), found, "base-two")

    def fetch_base(source, progress):
        asked.append(str(source))
        found = Provenance(f"hf:{source.repository}@{COMMIT}", COMMIT, "o", "apache-2.0")
        return HubFiles(write_base(tmp_path / "fetched-base"), found, None)

    monkeypatch.setattr("loractl_registry.hub.fetched_adapter", fetched_adapter)
    monkeypatch.setattr("loractl_registry.hub.fetch_base", fetch_base)
    return asked


def test_adapter_from_the_hub_knows_its_commit_and_its_base(registry, hub, tmp_path):
    registry.add_base("base-one", str(write_base(tmp_path / "one", seed=1)), actor="ada")
    registry.add_base("base-two", str(write_base(tmp_path / "two", seed=2)), actor="ada")

    version = registry.add("bot", "hf:o/bot@main", actor="ada").version

    assert version.provenance.source == f"hf:o/bot@{COMMIT}"
    assert version.provenance.commit == COMMIT
    assert version.base == "base-two"
    assert hub == ["hf:o/bot@main"]


def test_base_from_the_hub_has_its_licence_and_revision(registry, hub):
    added = registry.add_base("tiny", "hf:o/base", actor="ada", revision="v2")

    assert added.base.source == f"hf:o/base@{COMMIT}"
    assert added.base.licence == "apache-2.0"
    assert hub == ["hf:o/base@v2"]


@pytest.mark.parametrize("source", ["hf:o/base@v1", "/a/folder"])
def test_revision_that_has_no_place_is_refused(registry, source):
    with pytest.raises(UsageError):
        registry.add_base("tiny", source, actor="ada", revision="v2")


def test_base_is_admitted_by_its_digest(registry, tmp_path, clock):
    folder = write_base(tmp_path / "base")

    added = registry.add_base("tiny-moe", str(folder), actor="ada", licence="MIT")

    assert added.is_new
    assert registry.bases() == (added.base,)
    assert registry.base("tiny-moe") == added.base
    assert (added.base.path, added.base.file_count, added.base.licence) == (folder, 3, "MIT")
    assert added.base.config["model_type"] == "qwen3_moe"


def test_same_base_again_is_no_event_and_elsewhere_is_a_move(registry, base, tmp_path):
    before = registry.history()
    again = registry.add_base("tiny-moe", str(base.path), actor="ada")
    assert (again.is_new, again.base, registry.history()) == (False, base, before)

    moved = registry.add_base("tiny-moe", str(write_base(tmp_path / "moved")), actor="ada")

    assert (moved.is_new, moved.base.path) == (False, tmp_path / "moved")
    assert registry.history("tiny-moe")[-1].action == "base.move"
    assert registry.verify_base("tiny-moe", full=False).rehashed == 0


def test_other_files_under_the_same_name_are_refused(registry, base, tmp_path):
    with pytest.raises(BaseDiffersError):
        registry.add_base("tiny-moe", str(write_base(tmp_path / "b2", seed=7)), actor="ada")


def test_unchanged_base_is_not_hashed_again_unless_asked(registry, base):
    quick = registry.verify_base("tiny-moe", full=False)
    full = registry.verify_base("tiny-moe", full=True)

    assert (quick.is_intact, quick.rehashed, quick.was_full) == (True, 0, False)
    assert (full.is_intact, full.rehashed, full.was_full) == (True, 3, True)


def test_touched_base_is_hashed_once(registry, base):
    (base.path / "config.json").touch()

    rehashed = [registry.verify_base("tiny-moe", full=False).rehashed for _ in range(2)]

    assert rehashed == [1, 0]


def test_altered_tokenizer_is_damage_that_stays(registry, base):
    (base.path / "tokenizer.json").write_text(json.dumps({"version": "2.0"}))

    for _ in range(2):
        found = registry.verify_base("tiny-moe", full=False)
        assert not found.is_intact
        assert [each.path for each in found.damaged] == ["tokenizer.json"]


def test_base_is_removed_once_nothing_open_belongs_to_it(registry, add, tmp_path):
    add()
    with pytest.raises(BaseInUseError, match="bot@1"):
        registry.remove_base("tiny-moe", actor="ada")
    registry.revoke(Ref("bot", 1), actor="ada", reason="x")

    removed = registry.remove_base("tiny-moe", actor="ada")

    assert registry.bases() == ()
    assert registry.version(Ref("bot", 1)).base == removed.name
    assert registry.history("tiny-moe")[-1].action == "base.remove"
    for act in (registry.base, lambda name: registry.remove_base(name, actor="ada"), registry.snapshot):
        with pytest.raises(BaseNotFoundError):
            act("tiny-moe")
    assert registry.add_base("tiny-moe", str(write_base(tmp_path / "b3", seed=3)), actor="ada").is_new


def test_home_is_private_and_may_have_to_exist(tmp_path):
    from loractl_registry.home_errors import HomeNotFoundError

    with pytest.raises(HomeNotFoundError):
        Registry.open(tmp_path / "home", must_exist=True)
    assert not (tmp_path / "home").exists()

    with Registry.open(tmp_path / "home") as opened:
        assert opened.home == tmp_path / "home"
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    Registry.open(tmp_path / "home", must_exist=True).close()
