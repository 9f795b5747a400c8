"""verify, diff, fsck, gc and backup."""

import fcntl
import os
import sqlite3

import pytest
from support.registry import write_adapter

from loractl_registry import Damage, Ref, Registry, Stage, VersionRef
from loractl_registry._files import written_beside
from loractl_registry.refusals import CollectedError, FileExistsRefusedError

ONE = Ref("bot", 1)


def kinds(report):
    return [finding.kind for finding in report.findings]


def overwrite(file, data=b"junk"):
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(0o444)


def test_verify_names_the_damaged_file(registry, add):
    add("bot", 0)
    version = add("bot", 1)
    overwrite(version.path / "adapter_config.json")

    found = registry.verify()

    assert [one.is_intact for one in found] == [True, False]
    assert [each.path for each in found[1].damaged] == ["adapter_config.json"]
    assert registry.verify([ONE])[0].is_intact


def test_verify_says_collected_and_not_damaged(registry, add, clock):
    add()
    registry.revoke(ONE, actor="ada", reason="x")
    registry.gc(dry_run=False)

    (found,) = registry.verify()

    assert found.is_intact
    assert found.collected_at is not None


def test_diff_of_a_version_with_itself_is_empty(registry, add):
    add()

    found = registry.diff(ONE, ONE)

    assert found.is_same
    assert (found.facts, found.provenance, found.files, found.tensors) == ((), (), (), ())


def test_diff_names_what_differs(registry, base, tmp_path):
    registry.add("bot", str(write_adapter(tmp_path / "a", rank=4)), actor="ada")
    registry.add("bot", str(write_adapter(tmp_path / "b", rank=8, on_experts=True)), actor="ada")

    found = registry.diff(ONE, VersionRef("bot", 2))

    facts = {change.name: (change.before, change.after) for change in found.facts}
    tensors = {change.name: (change.before, change.after) for change in found.tensors}
    query = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    expert = "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight"
    assert facts["rank"] == (4, 8)
    assert [change.name for change in found.provenance] == ["source"]
    assert [change.name for change in found.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert [side.shape for side in tensors[query]] == [(4, 16), (8, 16)]
    assert tensors[expert][0] is None
    assert not found.is_same


def test_diff_finds_one_changed_tensor_by_its_bytes(registry, base, tmp_path):
    first = write_adapter(tmp_path / "a")
    second = write_adapter(tmp_path / "b")
    data = bytearray((second / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (second / "adapter_model.safetensors").write_bytes(data)
    for folder in (first, second):
        registry.add("bot", str(folder), actor="ada")

    found = registry.diff(ONE, Ref("bot", 2))

    assert [change.name.split(".")[-3] for change in found.tensors] == ["v_proj"]
    before, after = found.tensors[0].before, found.tensors[0].after
    assert before.digest != after.digest
    assert (before.shape, before.dtype) == (after.shape, after.dtype)


def test_diff_against_files_that_are_gone_is_a_clear_error(registry, add):
    add("bot", 0)
    version = add("bot", 1)
    registry.revoke(Ref("bot", 2), actor="ada", reason="x")
    registry.gc(dry_run=False)

    with pytest.raises(CollectedError, match="bot@2") as caught:
        registry.diff(ONE, Ref("bot", 2))

    assert caught.value.code == "registry.collected"
    assert not version.path.exists()


def test_clean_home_has_no_findings(registry, add):
    add()

    report = registry.fsck(repair=False, actor="ada")

    assert report.is_clean
    assert (report.findings, report.contents_checked) == ((), 1)


def test_orphans_leftovers_and_modes_are_found_then_mended(registry, add, home):
    version = add()
    orphan = home / "store/sha256/ab" / ("ab" + "0" * 62)
    orphan.mkdir(parents=True)
    (orphan / "adapter_config.json").write_text("{}")
    (home / "store/tmp/half").mkdir(parents=True)
    (home / "tmp/unpack-x").mkdir(parents=True)
    (version.path / "adapter_config.json").chmod(0o666)

    found = registry.fsck(repair=False, actor="ada")
    assert sorted(kinds(found)) == ["leftover", "leftover", "mode", "orphan"]
    assert not found.is_clean

    mended = registry.fsck(repair=True, actor="ada")
    assert sorted(kinds(mended)) == ["leftover", "leftover", "mode", "orphan"]
    assert mended.is_clean
    assert registry.fsck(repair=False, actor="ada").findings == ()
    assert not orphan.exists()
    assert registry.history()[-1].action == "registry.repair"
    assert registry.verify()[0].is_intact


def test_damaged_and_missing_files_are_reported_also_after_repair(registry, add):
    version = add("bot", 0)
    overwrite(version.path / "adapter_config.json")
    gone = add("bot", 1)
    gone.path.chmod(0o755)
    for file in gone.path.iterdir():
        file.unlink()
    gone.path.rmdir()

    for repair in (False, True, False):
        report = registry.fsck(repair=repair, actor="ada")
        assert sorted(kinds(report)) == ["damaged", "missing", "missing"]
        assert not report.is_clean
        assert any("bot@1: adapter_config.json" in finding.subject for finding in report.findings)


def test_stray_file_is_reported_and_kept(registry, add, home):
    add()
    (home / "store/notes.txt").write_text("mine")

    report = registry.fsck(repair=True, actor="ada")

    assert kinds(report) == ["stray"]
    assert (home / "store/notes.txt").read_text() == "mine"


def test_leftovers_of_a_running_add_are_left_alone(registry, add, home):
    add()
    (home / "store/tmp/half").mkdir(parents=True)
    handle = os.open(home / "store.lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_SH)

    report = registry.fsck(repair=True, actor="ada")
    os.close(handle)

    assert report.findings == ()
    assert (home / "store/tmp/half").is_dir()


def test_schema_drift_and_broken_references_are_found(registry, add, home):
    add()
    connection = sqlite3.connect(home / "registry.db")
    connection.execute("DROP TRIGGER audit_refuses_delete")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("DROP TRIGGER base_refuses_delete")
    connection.execute("DELETE FROM base")
    connection.commit()
    connection.close()

    report = registry.fsck(repair=True, actor="ada")

    assert kinds(report).count("schema") == 2
    assert kinds(report).count("database") == 1


def test_gc_removes_only_bytes_that_nobody_may_need(registry, add):
    revoked, shared, draft = add("bot", 0), add("bot", 1), add("bot", 2)
    add("other", 1)
    for number in (1, 2):
        registry.revoke(Ref("bot", number), actor="ada", reason="x")

    planned = registry.gc(dry_run=True)
    assert planned.contents == {revoked.digest: (VersionRef("bot", 1),)}
    assert planned.freed_bytes == revoked.size_bytes
    assert revoked.path.is_dir()

    done = registry.gc(dry_run=False, actor="ada")

    assert done.contents == planned.contents
    assert [each.path.is_dir() for each in (revoked, shared, draft)] == [False, True, True]
    assert registry.history()[-1].action == "registry.gc"
    assert registry.version(ONE).stage is Stage.REVOKED
    before = registry.history()
    assert registry.gc(dry_run=False).contents == {}
    assert registry.history() == before


def test_backup_opens_as_a_registry_and_never_overwrites(registry, add, tmp_path):
    add()
    target = tmp_path / "restored/registry.db"
    target.parent.mkdir()

    assert registry.backup(target) == target

    assert [path.name for path in target.parent.iterdir()] == ["registry.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    with Registry.open(target.parent) as restored:
        assert restored.history() == registry.history()
    with pytest.raises(FileExistsRefusedError):
        registry.backup(target)


def test_backup_into_a_folder_that_is_not_there_is_a_clear_error(registry, tmp_path):
    with pytest.raises(Exception, match="absent") as caught:
        registry.backup(tmp_path / "absent/registry.db")

    assert caught.value.code == "registry.storage"


def test_file_that_appears_meanwhile_is_kept(registry, tmp_path, monkeypatch):
    target = tmp_path / "out"

    def write():
        with written_beside(target) as part:
            part.write_text("mine")
            target.write_text("theirs")

    with pytest.raises(FileExistsRefusedError):
        write()

    assert target.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_file_system_without_hard_links_gets_a_rename(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)

    with written_beside(tmp_path / "out") as part:
        part.write_text("whole")

    assert (tmp_path / "out").read_text() == "whole"


def test_damage_is_a_value():
    assert Damage("a", "b", "c") == Damage("a", "b", "c")


def test_database_can_be_checked_alone(registry, add, home):
    add()
    assert registry.check_database() == ()
    connection = sqlite3.connect(home / "registry.db")
    connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()

    (finding,) = registry.check_database()

    assert (finding.kind, finding.is_repaired) == ("schema", False)


def test_bytes_that_gc_removes_meanwhile_are_not_damage(registry, add, monkeypatch):
    add()
    registry.revoke(ONE, actor="ada", reason="x")
    real = registry._context.contents.verify

    def verify(digest, manifest):
        registry.gc(dry_run=False)
        return real(digest, manifest)

    monkeypatch.setattr(type(registry._context.contents), "verify", lambda store, *arguments: verify(*arguments))

    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_corrupt_index_is_found(registry, add, home):
    for seed in range(4):
        add("bot", seed)
    connection = sqlite3.connect(home / "registry.db", isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    altered = "CREATE INDEX version_by_digest ON version (stage)"
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'version_by_digest'", (altered,))
    connection.close()

    with Registry.open(home) as again:
        assert "database" in kinds(again.fsck(repair=False, actor="ada"))
