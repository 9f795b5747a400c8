"""The files of a base: which they are, that they are data alone, and whether they are still the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.file_errors import (
    BaseFilesError,
    ChangedWhileReadError,
    SourceNotFoundError,
    UnsafeFileError,
    shown,
)
from loractl_registry.hashing import Signature, hash_files, signature_of
from loractl_registry.home_errors import os_errors_named
from loractl_registry.outcomes import Damage
from loractl_registry.progress import SILENT, Progress
from loractl_registry.records import Manifest
from loractl_registry.safetensors_header import BASE_LIMITS, TensorFile, open_safetensors_header
from loractl_registry.sniffing import HEAD_BYTES, code_suffix, dangerous_content
from loractl_registry.strict_json import StrictJsonError, as_list, as_object, parse_object

CONFIG = "config.json"
WEIGHTS_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
TEMPLATES = "additional_chat_templates"
SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", WEIGHTS_SUFFIX)
"""Endings of what an engine or a tokenizer may read from a base."""

MAX_ENTRIES = 10_000
MAX_JSON_BYTES = 64 * 2**20

_DATA_ONLY = "copy the folder without it, and admit the copy"
_COMPLETE = "fetch the base again, with all its files"


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """An admissible base.

    Attributes:
        folder: Absolute.
        signatures: By path, how the file looked when it was hashed; what `check_base` compares.
        config: Parsed config.json.
        ignored: Names at the top that no engine reads.
    """

    folder: Path
    manifest: Manifest
    signatures: Mapping[str, Signature]
    config: Mapping[str, object]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """What comparing a base with its manifest found.

    Attributes:
        rehashed: Number of files that were hashed, because they looked different or everything was asked for.
        signatures: How the files look now, for the next quick check; without the damaged ones.
    """

    damaged: tuple[Damage, ...]
    rehashed: int
    signatures: Mapping[str, Signature]

    @property
    def is_intact(self) -> bool:
        """Whether every file is what the manifest says and none was added."""
        return not self.damaged


def scan_base(folder: Path, progress: Progress = SILENT, workers: int | None = None) -> BaseFiles:
    """Check that `folder` holds a complete base made of data alone, and hash its files.

    Taken is every file at the top that an engine may read: configs, tokenizer, chat templates, weights and their index.
    Links are followed where the Hugging Face cache makes them, from a snapshot to a blob of the same repository.

    Raises:
        SourceNotFoundError: There is no such folder, or no config.json or no weights in it.
        UnsafeFileError: It holds code, pickles, or links to elsewhere, or a config that asks for code (``auto_map``).
        BaseFilesError: A config is not JSON, or the index names a file or a tensor that is not there.
        MalformedSafetensorsError: A weight file is not readable.
        ChangedWhileReadError: Something wrote to it meanwhile.
        RegistryError: The operating system refused.
    """
    folder = folder.absolute()
    with os_errors_named(folder):
        survey = _survey(folder)
        for problem in survey.problems.values():
            raise problem
        config = _check_contents(folder, survey.taken)
        before = _signatures(folder, survey.taken)
        entries = hash_files(folder, survey.taken, progress, workers, label="hashing the base")
        if _signatures(folder, survey.taken) != before:
            raise ChangedWhileReadError(str(folder))
    return BaseFiles(folder, Manifest(entries), before, config, survey.ignored)


def check_base(
    folder: Path,
    manifest: Manifest,
    signatures: Mapping[str, tuple[int, ...]],
    *,
    full: bool,
    progress: Progress = SILENT,
    workers: int | None = None,
) -> BaseCheck:
    """Compare a base with its manifest.

    Files that look as they did when they were last hashed (size, mtime, ctime, inode) are taken as unchanged, unless
    `full`. Files that came since and that an engine would read count as damage too.

    Raises:
        RegistryError: The operating system refused.
    """
    expected = {entry.path: entry for entry in manifest.files}
    try:
        survey = _survey(folder)
    except SourceNotFoundError:
        return BaseCheck(tuple(Damage(entry.path, entry.digest, "missing") for entry in manifest.files), 0, {})
    damaged = [
        Damage(name, expected[name].digest, str(problem)) if name in expected else _unexpected(name)
        for name, problem in survey.problems.items()
    ]
    damaged += [_unexpected(name) for name in survey.taken if name not in expected]
    gone = expected.keys() - set(survey.taken) - survey.problems.keys()
    damaged += [Damage(name, expected[name].digest, "missing") for name in gone]
    present = [name for name in survey.taken if name in expected]
    with os_errors_named(folder):
        now = _signatures(folder, present)
        stale = [name for name in present if full or tuple(signatures.get(name, ())) != now[name]]
        found = hash_files(folder, stale, progress, workers, label="hashing the base")
    wrong = {entry.path: entry for entry in found if entry != expected[entry.path]}
    damaged += [Damage(name, expected[name].digest, entry.digest) for name, entry in wrong.items()]
    good = {name: signature for name, signature in now.items() if name not in wrong}
    return BaseCheck(tuple(sorted(damaged, key=lambda each: each.path)), len(stale), good)


@dataclass(frozen=True, slots=True)
class _Survey:
    taken: tuple[str, ...]
    ignored: tuple[str, ...]
    problems: Mapping[str, UnsafeFileError]


def _survey(folder: Path) -> _Survey:
    """Sort the names in `folder` into those taken, those ignored and those that may not be there."""
    taken: list[str] = []
    ignored: list[str] = []
    problems: dict[str, UnsafeFileError] = {}
    for name in _names(folder):
        try:
            is_taken = _is_taken(folder, name)
        except UnsafeFileError as problem:
            problems[name] = problem
            continue
        (taken if is_taken else ignored).append(name)
    return _Survey(tuple(taken), tuple(ignored), problems)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise SourceNotFoundError(folder, problem, hint="name a folder, or hf:OWNER/REPO")
    names: list[str] = []
    with os_errors_named(folder):
        for prefix in ("", f"{TEMPLATES}/"):
            parent = folder / prefix
            if prefix and (parent.is_symlink() or not parent.is_dir()):
                continue
            with os.scandir(parent) as entries:
                for entry in entries:
                    names.append(prefix + entry.name)
                    if len(names) > MAX_ENTRIES:
                        raise UnsafeFileError(str(folder), f"it has more than {MAX_ENTRIES} entries", hint=_DATA_ONLY)
    return sorted(names)


def _is_taken(folder: Path, name: str) -> bool:
    if not name.isprintable() or "\\" in name:
        raise UnsafeFileError(name, "its name holds a backslash or unprintable characters", hint=_DATA_ONLY)
    path = folder / name
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return False
    if stat.S_ISLNK(status.st_mode):
        _check_link(folder, path)
    elif not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(name, "it is not a regular file", hint=_DATA_ONLY)
    if (suffix := code_suffix(name)) is not None:
        raise UnsafeFileError(name, f"{suffix} files can carry code", hint=_DATA_ONLY)
    if not name.endswith(WEIGHTS_SUFFIX):
        with path.open("rb", buffering=0) as stream:
            content = dangerous_content(stream.read(HEAD_BYTES))
        if content is not None:
            raise UnsafeFileError(name, f"it is {content}, which can carry code", hint=_DATA_ONLY)
    return name.endswith(SUFFIXES)


def _check_link(folder: Path, path: Path) -> None:
    """Accept a link from a snapshot of the Hugging Face cache to a blob of the same repository, and no other."""
    target = Path(os.path.normpath(path.parent / path.readlink()))
    blobs = folder.parent.parent / "blobs"
    is_cache = folder.parent.name == "snapshots" and target.parent == blobs
    if not is_cache or not target.exists() or not stat.S_ISREG(target.lstat().st_mode):
        raise UnsafeFileError(
            path.name, f"it is a link to {shown(str(target))}", hint="copy the files themselves: cp -rL FOLDER COPY"
        )


def _check_contents(folder: Path, names: Iterable[str]) -> dict[str, object]:
    weights: dict[str, TensorFile] = {}
    config: dict[str, object] | None = None
    for name in names:
        path = folder / name
        if name.endswith(WEIGHTS_SUFFIX):
            weights[name] = open_safetensors_header(path.resolve(), limits=BASE_LIMITS, name=name)
        elif name == CONFIG or name.endswith("_config.json"):
            held = _read_json(path)
            if _asks_for_code(held):
                raise UnsafeFileError(
                    name, "auto_map asks for code of the repository", hint="use a base that transformers knows itself"
                )
            config = held if name == CONFIG else config
    if config is None:
        raise SourceNotFoundError(folder, f"has no {CONFIG}", hint=_COMPLETE)
    if not weights:
        raise SourceNotFoundError(folder, "has no .safetensors weights", hint="convert the weights to safetensors")
    for name in names:
        if name.endswith(INDEX_SUFFIX):
            _check_index(name, _read_json(folder / name), weights)
    return config


def _read_json(path: Path) -> dict[str, object]:
    with path.open("rb") as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise BaseFilesError(path.name, f"it is larger than {MAX_JSON_BYTES} bytes", hint=_COMPLETE)
    try:
        return parse_object(data)
    except StrictJsonError as error:
        raise BaseFilesError(path.name, str(error), hint=_COMPLETE) from error


def _asks_for_code(value: object) -> bool:
    """Whether a non-empty ``auto_map`` is anywhere in `value`."""
    pending: list[object] = [value]
    while pending:
        each = pending.pop()
        if (held := as_object(each)) is not None:
            if held.get("auto_map"):
                return True
            pending += held.values()
        elif (items := as_list(each)) is not None:
            pending += items
    return False


def _check_index(name: str, index: Mapping[str, object], weights: Mapping[str, TensorFile]) -> None:
    rows = as_object(index.get("weight_map"))
    if rows is None:
        raise BaseFilesError(name, "it has no weight_map", hint=_COMPLETE)
    for tensor, file in rows.items():
        if not isinstance(file, str) or file not in weights:
            raise BaseFilesError(name, f"it names {shown(file)}, which is not there", hint=_COMPLETE)
        if tensor not in weights[file].tensors:
            raise BaseFilesError(name, f"it names tensor {shown(tensor)}, which {file} does not hold", hint=_COMPLETE)


def _signatures(folder: Path, names: Iterable[str]) -> dict[str, Signature]:
    return {name: signature_of((folder / name).stat()) for name in names}


def _unexpected(name: str) -> Damage:
    return Damage(name, "nothing", "unexpected file")
