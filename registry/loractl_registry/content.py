"""The content-addressed store: one read-only folder per manifest digest."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl_registry._faults import reach
from loractl_registry.adapter_facts import facts_of
from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.copying import copy_hashed
from loractl_registry.hashing import hash_file, shown_progress
from loractl_registry.home_errors import os_errors_named
from loractl_registry.intake import OpenFile, opened_folder
from loractl_registry.outcomes import Damage
from loractl_registry.progress import SILENT, Progress
from loractl_registry.records import AdapterFacts, FileEntry, Manifest
from loractl_registry.safetensors_header import TensorInfo, open_safetensors_header

FILE_MODE = 0o444
FOLDER_MODE = 0o555

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ContentStore:
    """Complete, read-only folders ``<root>/sha256/<2 hex>/<hex>``, and ``<root>/tmp`` for what is not complete yet.

    A folder appears by a rename of files that are on the disk already, so that a kill at any moment leaves a whole
    folder or a leftover below ``tmp``, never half a folder under a digest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def temporary(self) -> Path:
        """Where folders are written before they get their name."""
        return self.root / "tmp"

    def path_of(self, digest: str) -> Path:
        """Return where the content of `digest` is or would be. Reads nothing."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"not a sha256 digest: {digest!r}")
        hexadecimal = digest.removeprefix("sha256:")
        return self.root.joinpath("sha256", hexadecimal[:2], hexadecimal)

    def ingest(self, folder: Path, progress: Progress = SILENT) -> Ingested:
        """Check the files of an adapter, and copy them below ``tmp`` while hashing them.

        Nothing is visible until `Ingested.publish`; the caller ends with `Ingested.discard` in any case.

        Raises:
            UnsafeFileError: The folder holds a link, a device, code, or weights that can carry code.
            SourceNotFoundError: There is no such folder, or it is not an adapter.
            AdapterConfigError: The config is malformed, or asks for what the engine would not do.
            MalformedSafetensorsError: The weights break the format or the limits.
            RegistryError: The operating system refused; nothing is left behind.
        """
        with opened_folder(folder) as opened:
            draft = self._new_draft()
            try:
                return self._ingest(draft, opened.files, opened.ignored, progress)
            except BaseException:
                _remove_tree(draft)
                raise

    def verify(self, digest: str, manifest: Manifest) -> tuple[Damage, ...]:
        """Hash the stored files of `digest`, and return what is not as `manifest` says; empty if all is.

        Raises:
            RegistryError: The operating system refused to read.
        """
        if manifest.digest != digest:
            return (Damage("the manifest", digest, manifest.digest),)
        folder = self.path_of(digest)
        if folder.is_symlink() or not folder.is_dir():
            found = "not a regular file" if os.path.lexists(folder) else "missing"
            return tuple(Damage(entry.path, entry.digest, found) for entry in manifest.files)
        expected = {entry.path: entry for entry in manifest.files}
        with os_errors_named(folder):
            damage = [_damage_of(folder, entry) for entry in manifest.files]
            extra = sorted({entry.name for entry in os.scandir(folder)} - expected.keys())
        unexpected = (Damage(name, "nothing", "unexpected file") for name in extra)
        return (*(each for each in damage if each is not None), *unexpected)

    def remove(self, digest: str) -> None:
        """Remove the content of `digest`; nothing happens if it is not there."""
        folder = self.path_of(digest)
        with os_errors_named(folder):
            if not os.path.lexists(folder):
                return
            grave = self._new_temporary()
            _move_folder(folder, grave)
            _fsync(folder.parent)
            reach("content.after_unlink")
            _remove_tree(grave)

    def digests(self) -> tuple[str, ...]:
        """Return the digest of every folder in the store, sorted, whatever is in them."""
        found: list[str] = []
        with os_errors_named(self.root):
            for shelf in _children(self.root / "sha256"):
                names = (f"sha256:{child.name}" for child in _children(shelf))
                found += [digest for digest in names if _DIGEST.fullmatch(digest) and digest[7:9] == shelf.name]
        return tuple(sorted(found))

    def strays(self) -> tuple[Path, ...]:
        """Return what lies in the store and is neither a content nor below ``tmp``, sorted."""
        with os_errors_named(self.root):
            contents = {self.path_of(digest) for digest in self.digests()}
            shelves = list(_children(self.root / "sha256"))
            inside = [child for shelf in shelves for child in (_children(shelf) or [shelf]) if child not in contents]
            top = [child for child in _children(self.root) if child.name not in {"sha256", "tmp"}]
        return tuple(sorted(path for path in (*inside, *top) if not _is_empty_shelf(path, self.root)))

    def leftovers(self) -> tuple[Path, ...]:
        """Return what lies below ``tmp``, sorted: the work of those who write now, and of those who were killed."""
        with os_errors_named(self.temporary):
            return tuple(sorted(_children(self.temporary)))

    def remove_leftover(self, path: Path) -> None:
        """Remove one of `leftovers`, also if it is read-only."""
        if path.parent != self.temporary:
            raise ValueError(f"not a leftover: {path}")
        with os_errors_named(path):
            _remove_tree(path)

    def wrong_modes(self, digest: str) -> tuple[Path, ...]:
        """Return the stored files and the folder of `digest` that somebody could write, sorted."""
        folder = self.path_of(digest)
        with os_errors_named(folder):
            paths = [folder, *_children(folder)]
            return tuple(sorted(path for path in paths if path.lstat().st_mode & 0o222 and not path.is_symlink()))

    def restore_modes(self, digest: str) -> None:
        """Make the stored files and the folder of `digest` read-only again."""
        for path in self.wrong_modes(digest):
            with os_errors_named(path):
                path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)

    def _new_temporary(self) -> Path:
        self.temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.temporary / secrets.token_hex(16)

    def _new_draft(self) -> Path:
        with os_errors_named(self.temporary):
            draft = self._new_temporary()
            draft.mkdir(mode=0o700)
            return draft

    def _ingest(
        self, draft: Path, files: tuple[OpenFile, ...], ignored: tuple[str, ...], progress: Progress
    ) -> Ingested:
        from loractl_registry.adapter_config import read_adapter_config  # pydantic, which other operations do without

        with shown_progress(progress, "copying and hashing", sum(file.size_bytes for file in files)):
            # The small files first, so that a bad config is said before gigabytes are copied.
            entries = [_copy(file, draft, progress) for file in files if file.name != WEIGHTS]
            config = read_adapter_config(draft)
            entries += [_copy(file, draft, progress) for file in files if file.name == WEIGHTS]
        header = open_safetensors_header(draft / WEIGHTS)
        manifest = Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))
        with os_errors_named(draft):
            _fsync(draft)
        reach("content.after_copy")
        facts = facts_of(config, header.tensors)
        return Ingested(self, draft, manifest, facts, header.tensors, ignored)


@dataclass(frozen=True, slots=True)
class Ingested:
    """Checked and copied files that nobody can see yet.

    Attributes:
        tensors: Of the copied weights, by name.
        ignored: Names in the source folder that were left where they are.
    """

    store: ContentStore
    draft: Path
    manifest: Manifest
    facts: AdapterFacts
    tensors: Mapping[str, TensorInfo]
    ignored: tuple[str, ...]

    def publish(self) -> Path:
        """Put the files under their digest, for good, and return the folder.

        Where an intact folder of that digest is already, nothing changes. A damaged one is healed: each of its files
        that differs is replaced in one step, so that whoever reads meanwhile sees bad or good bytes, never a mixture.

        Raises:
            RegistryError: The operating system refused.
        """
        target = self.store.path_of(self.manifest.digest)
        with os_errors_named(target):
            _make_shelf(target.parent)
            reach("content.before_rename")
            if target.is_dir() and not target.is_symlink():
                self._heal(target)
            else:
                if os.path.lexists(target):
                    target.rename(self.store.temporary / secrets.token_hex(16))
                self.draft.rename(target)
            reach("content.after_rename")
            target.chmod(FOLDER_MODE)
            _fsync(target)
            _fsync(target.parent)
        return target

    def discard(self) -> None:
        """Remove what was copied and not published; more than once is harmless."""
        with os_errors_named(self.draft):
            _remove_tree(self.draft)

    def _heal(self, target: Path) -> None:
        damaged = self.store.verify(self.manifest.digest, self.manifest)
        if not damaged:
            return
        target.chmod(0o700)
        good = {entry.path for entry in self.manifest.files}
        for each in damaged:
            path = target / each.path
            if path.is_dir() and not path.is_symlink():
                _remove_tree(path)
            if each.path in good:
                (self.draft / each.path).replace(path)
            else:
                path.unlink(missing_ok=True)


def _copy(file: OpenFile, draft: Path, progress: Progress) -> FileEntry:
    path = draft / file.name
    with os_errors_named(path):
        target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            digest = copy_hashed(file.handle, target, name=file.name, expected_bytes=file.size_bytes, progress=progress)
            os.fchmod(target, FILE_MODE)
        finally:
            os.close(target)
    return FileEntry(file.name, file.size_bytes, digest)


def _damage_of(folder: Path, entry: FileEntry) -> Damage | None:
    path = folder / entry.path
    try:
        status = path.lstat()
    except FileNotFoundError:
        return Damage(entry.path, entry.digest, "missing")
    if not stat.S_ISREG(status.st_mode):
        return Damage(entry.path, entry.digest, "not a regular file")
    found = hash_file(path, expected_bytes=status.st_size)
    return None if found == entry.digest else Damage(entry.path, entry.digest, found)


def _move_folder(folder: Path, target: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        # A folder that moves to another parent must be writable itself, because its ".." changes.
        folder.chmod(0o700)
    folder.rename(target)


def _remove_tree(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for parent, folders, _ in os.walk(path):
        for folder in ("", *folders):
            child = Path(parent, folder)
            if not child.is_symlink():
                child.chmod(0o700)
    shutil.rmtree(path)


def _make_shelf(shelf: Path) -> None:
    if not shelf.is_dir():
        shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fsync(shelf.parent)
        _fsync(shelf.parent.parent)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_empty_shelf(path: Path, root: Path) -> bool:
    return path.parent == root / "sha256" and path.is_dir() and not any(path.iterdir())


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
