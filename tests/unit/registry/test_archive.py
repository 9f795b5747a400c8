"""Export and import: one deterministic file, read as if an attacker wrote it."""

import io
import json
import tarfile

import pytest
from support.registry import write_base

from loractl_registry import Ref, Registry, Stage, UsageError, VersionRef
from loractl_registry import archive_format as form
from loractl_registry.archive_format import ArchiveError
from loractl_registry.errors import RegistryError
from loractl_registry.refusals import (
    CollectedError,
    DamagedFilesError,
    FileExistsRefusedError,
    NameTakenError,
    StageError,
    VersionNotFoundError,
)

ONE, TWO = Ref("bot", 1), Ref("bot", 2)


@pytest.fixture
def archive(registry, add, tmp_path):
    add("bot", 0)
    add("bot", 1)
    add("other", 0)
    registry.promote(ONE, actor="ada", to=Stage.LIVE)
    file = tmp_path / "bots.tar"
    registry.export([ONE, TWO, Ref("other", 1)], file)
    return file


@pytest.fixture
def elsewhere(tmp_path, clock):
    with Registry.open(tmp_path / "elsewhere", clock=clock) as opened:
        yield opened


def assert_nothing_happened(registry):
    assert registry.versions() == ()
    assert registry.history() == ()
    assert registry.fsck(repair=False, actor="ada").findings == ()


def test_archive_is_a_tar_that_begins_with_its_manifest(archive, registry):
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))

    assert names[0] == "manifest.json"
    assert len(names) == 5
    assert [version["name"] for version in manifest["versions"]] == ["bot", "bot", "other"]
    assert manifest["format_version"] == 1


def test_archive_without_terms_of_data_is_what_an_older_loractl_wrote(archive):
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))

    assert {key for version in manifest["versions"] for key in version["provenance"]} == {
        *("source", "commit", "author", "licence", "datasets", "code_commit", "note", "extra")
    }


def test_same_refs_give_the_same_bytes(archive, registry, tmp_path):
    report = registry.export([TWO, Ref("other", 1), ONE, ONE], tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    assert report.refs == (VersionRef("bot", 1), VersionRef("bot", 2), VersionRef("other", 1))
    assert report.size_bytes == archive.stat().st_size


def test_import_gives_drafts_with_the_same_bytes_and_provenance(archive, registry, elsewhere):
    added = elsewhere.import_archive(archive, actor="eve")

    assert [str(one.version.ref) for one in added] == ["bot@1", "bot@2", "other@1"]
    assert {one.version.stage for one in added} == {Stage.DRAFT}
    assert all(one.is_new for one in added)
    for one in added:
        original = registry.version(one.version.ref)
        assert (one.version.digest, one.version.facts) == (original.digest, original.facts)
        assert one.version.provenance == original.provenance
        assert one.version.base is None
    assert all(one.is_intact for one in elsewhere.verify())
    assert elsewhere.history("bot")[0].detail["imported_as"] == "bot@1"


def test_import_binds_to_the_base_with_the_same_digest(archive, elsewhere, tmp_path):
    elsewhere.add_base("renamed", str(write_base(tmp_path / "copy")), actor="eve")

    assert elsewhere.import_archive(archive, actor="eve")[0].version.base == "renamed"


def test_import_never_binds_to_another_base(archive, elsewhere, tmp_path):
    elsewhere.add_base("tiny-moe", str(write_base(tmp_path / "copy", seed=3)), actor="eve")

    assert elsewhere.import_archive(archive, actor="eve")[0].version.base is None


def test_version_without_a_base_is_imported_with_the_declared_one(elsewhere, registry, tmp_path):
    from support.registry import write_adapter

    registry.add("bot", str(write_adapter(tmp_path / "a")), actor="ada")
    registry.export([ONE], tmp_path / "a.tar")
    elsewhere.add_base("tiny-moe", str(write_base(tmp_path / "copy", seed=3)), actor="eve")

    assert elsewhere.import_archive(tmp_path / "a.tar", actor="eve")[0].version.base == "tiny-moe"


def test_import_twice_finds_what_is_there(archive, elsewhere):
    first = elsewhere.import_archive(archive, actor="eve")
    before = elsewhere.history()

    second = elsewhere.import_archive(archive, actor="eve")

    assert [one.version for one in second] == [one.version for one in first]
    assert not any(one.is_new for one in second)
    assert elsewhere.history() == before


def test_export_needs_something_and_never_overwrites(registry, archive):
    with pytest.raises(UsageError):
        registry.export([], archive)
    with pytest.raises(FileExistsRefusedError):
        registry.export([ONE], archive)
    with pytest.raises(VersionNotFoundError):
        registry.export([Ref("bot", 9)], archive.with_name("x.tar"))


def test_export_refuses_revoked_collected_and_damaged(registry, archive, tmp_path):
    version = registry.version(ONE)
    file = version.path / "adapter_config.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    registry.revoke(TWO, actor="ada", reason="x")

    with pytest.raises(DamagedFilesError):
        registry.export([ONE], tmp_path / "damaged.tar")
    with pytest.raises(StageError):
        registry.export([TWO], tmp_path / "revoked.tar")
    assert [path.name for path in tmp_path.iterdir() if "damaged" in path.name or "revoked" in path.name] == []


def test_export_of_a_rejected_and_collected_version_says_so(registry, add, tmp_path):
    add()
    registry.promote(ONE, actor="ada")
    registry.reject(ONE, actor="ada", reason="x")
    registry.gc(dry_run=False)

    with pytest.raises(CollectedError, match="bot@1"):
        registry.export([ONE], tmp_path / "x.tar")


def rewritten(archive, change):
    """Change the manifest and write an archive that is right in every other respect."""
    with tarfile.open(archive) as tar:
        held = json.load(tar.extractfile("manifest.json"))
        rest = archive.read_bytes()[tar.getmembers()[1].offset :]
    change(held)
    text = (json.dumps(held, sort_keys=True, separators=(",", ":")) + "\n").encode()
    return form.header_of("manifest.json", len(text)) + text + form.padding_of(len(text)) + rest


def first_content(held):
    return held["contents"][min(held["contents"])]


MANIFESTS = {
    "other format": lambda held: held.update(format="zip"),
    "newer format": lambda held: held.update(format_version=2),
    "no versions": lambda held: held.update(versions=[]),
    "extra key": lambda held: held.update(extra=1),
    "traversal": lambda held: first_content(held)[0].update(path="../../etc/passwd"),
    "absolute": lambda held: first_content(held)[0].update(path="/etc/passwd"),
    "unknown file": lambda held: first_content(held)[0].update(path="run.py"),
    "file twice": lambda held: first_content(held).append(first_content(held)[-1]),
    "unsorted": lambda held: first_content(held).reverse(),
    "huge size": lambda held: first_content(held)[0].update(size_bytes=2**50),
    "negative size": lambda held: first_content(held)[0].update(size_bytes=-1),
    "smaller size": lambda held: first_content(held)[0].update(size_bytes=1),
    "weights left out": lambda held: first_content(held).pop(),
    "other content digest": lambda held: first_content(held)[0].update(size_bytes=441),
    "other digest": lambda held: first_content(held)[0].update(digest=f"sha256:{'0' * 64}"),
    "bad digest": lambda held: first_content(held)[0].update(digest="md5:0"),
    "file left out": lambda held: first_content(held).pop(),
    "content left out": lambda held: held["contents"].pop(min(held["contents"])),
    "bad name": lambda held: held["versions"][0].update(name="Bot"),
    "bad number": lambda held: held["versions"][0].update(number=0),
    "number as text": lambda held: held["versions"][0].update(number="1"),
    "version twice": lambda held: held["versions"].append(held["versions"][0]),
    "same bytes twice": lambda held: held["versions"].append(held["versions"][0] | {"number": 9}),
    "revoked": lambda held: held["versions"][0].update(stage="revoked"),
    "terms where there are none": lambda held: held["versions"][0]["provenance"].update(dataset_terms=[]),
    "odd terms": lambda held: held["versions"][0]["provenance"].update(dataset_terms=[{"name": "x", "price": 1}]),
    "odd class": lambda held: held["versions"][0]["provenance"].update(
        dataset_terms=[{"name": "x", "licence": None, "data_class": "Top Secret"}]
    ),
    "odd provenance": lambda held: held["versions"][0]["provenance"].update(shell="rm"),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_manifest_that_export_would_not_write_is_refused(archive, elsewhere, tmp_path, change):
    hostile = tmp_path / "hostile.tar"
    hostile.write_bytes(rewritten(archive, change))

    with pytest.raises(ArchiveError) as caught:
        elsewhere.import_archive(hostile, actor="eve")

    assert caught.value.hint
    assert_nothing_happened(elsewhere)


def member(name, data=b"x", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


BYTES = {
    "empty": lambda data: b"",
    "text": lambda data: b"hello" * 1000,
    "cut in the manifest": lambda data: data[:700],
    "cut in a file": lambda data: data[:-3000],
    "no end": lambda data: data[:-1024],
    "something behind": lambda data: data + b"x",
    "one bit of a weight": lambda data: data[:-1500] + bytes([data[-1500] ^ 1]) + data[-1499:],
    "one bit of a header": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "symlink first": lambda data: member("manifest.json", kind=tarfile.SYMTYPE, link="/etc/passwd") + data,
    "device first": lambda data: member("manifest.json", kind=tarfile.CHRTYPE) + data,
    "hard link": lambda data: data[:-1024] + member("contents/x", kind=tarfile.LNKTYPE, link="manifest.json"),
    "traversal": lambda data: data[:-1024] + member("../../evil"),
    "manifest is a list": lambda data: member("manifest.json", b"[]"),
    "manifest twice a key": lambda data: form.header_of("manifest.json", 14) + b'{"a":1,"a":2}\n' + bytes(498) + data,
    "manifest too large": lambda data: form.header_of("manifest.json", 2**30) + data,
    "gzip": lambda data: __import__("gzip").compress(data),
}


@pytest.mark.parametrize("change", BYTES.values(), ids=BYTES)
def test_bytes_that_export_would_not_write_are_refused(archive, elsewhere, tmp_path, change):
    hostile = tmp_path / "hostile.tar"
    hostile.write_bytes(change(archive.read_bytes()))

    with pytest.raises(ArchiveError):
        elsewhere.import_archive(hostile, actor="eve")

    assert_nothing_happened(elsewhere)


def test_import_is_all_or_nothing(archive, elsewhere, tmp_path):
    elsewhere.add_base("other", str(write_base(tmp_path / "b")), actor="eve")
    before = elsewhere.history()

    with pytest.raises(NameTakenError):
        elsewhere.import_archive(archive, actor="eve")

    assert elsewhere.versions() == ()
    assert elsewhere.history() == before
    assert elsewhere.fsck(repair=False, actor="ada").findings == ()


def test_file_that_is_not_there_is_named(elsewhere, tmp_path):
    with pytest.raises(RegistryError, match=r"absent\.tar"):
        elsewhere.import_archive(tmp_path / "absent.tar", actor="eve")
