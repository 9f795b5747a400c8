"""Opening a stranger's folder: only what an adapter is made of, and nothing that could be more than data."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.adapter_names import CONFIG, README, TAKEN, WEIGHTS
from loractl_registry.file_errors import SourceNotFoundError, UnreadableError, UnsafeFileError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.sniffing import HEAD_BYTES, code_suffix, dangerous_content

MAX_ENTRIES = 10_000
MAX_NAME_LENGTH = 255
MAX_BYTES = {CONFIG: 2**20, README: 4 * 2**20, WEIGHTS: 2**40}

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOVE_AWAY = "copy adapter_config.json and adapter_model.safetensors to a folder of their own and add that"


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is taken: read it through `handle` alone, because its name may mean another file by now."""

    name: str
    handle: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder that was found harmless.

    Attributes:
        files: What is taken, sorted by name; the weights and the config are among them.
        ignored: Names that are left where they are: harmless files, and folders, which are never entered.
    """

    files: tuple[OpenFile, ...]
    ignored: tuple[str, ...]


@contextmanager
def opened_folder(folder: Path) -> Generator[OpenFolder]:
    """Open the files of an adapter in `folder`, without following a link inside it.

    Taken are adapter_config.json, adapter_model.safetensors and README.md. Anything else is ignored if it is a folder
    or a harmless regular file, and refuses the whole folder if it is a link, a device, a second name of a file
    elsewhere, code, an archive, or weights in a format that can carry code, whatever it is called.

    Raises:
        SourceNotFoundError: There is no such folder, or it is not an adapter.
        UnsafeFileError: Something in it is not harmless; nothing may be taken.
        RegistryError: The operating system refused.
    """
    with os_errors_named(folder), ExitStack() as stack:
        root = _open_root(folder)
        stack.callback(os.close, root)
        files: list[OpenFile] = []
        ignored: list[str] = []
        for name in _names(root, folder):
            taken = _open_entry(root, name, stack)
            if taken is None:
                ignored.append(name)
            else:
                files.append(taken)
        _require_adapter(folder, files)
        yield OpenFolder(tuple(files), tuple(ignored))


def _open_root(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SourceNotFoundError(folder, "does not exist", hint="name a folder, or hf:OWNER/REPO") from error
    except NotADirectoryError as error:
        raise SourceNotFoundError(folder, "is not a folder", hint="name the folder that holds the files") from error
    except PermissionError as error:
        raise UnreadableError(str(folder)) from error


def _names(root: int, folder: Path) -> list[str]:
    names: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > MAX_ENTRIES:
                raise UnsafeFileError(str(folder), f"it has more than {MAX_ENTRIES} entries", hint=_MOVE_AWAY)
    for name in names:
        # isprintable is false for control and bidirectional characters, and for bytes that are not UTF-8.
        if not name.isprintable() or "\\" in name:
            raise UnsafeFileError(name, "its name holds a backslash or unprintable characters", hint=_MOVE_AWAY)
    return sorted(names)


def _open_entry(root: int, name: str, stack: ExitStack) -> OpenFile | None:
    """Return the open file if it is one to take, None if it is to be ignored."""
    status = os.stat(name, dir_fd=root, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) and name not in TAKEN:
        return None
    _check_kind(name, status)
    if (suffix := code_suffix(name)) is not None:
        raise UnsafeFileError(name, f"{suffix} files can carry code", hint=_MOVE_AWAY)
    try:
        handle = os.open(name, _OPEN_FILE, dir_fd=root)
    except PermissionError as error:
        raise UnreadableError(name) from error
    stack.callback(os.close, handle)
    opened = os.fstat(handle)
    _check_kind(name, opened)
    if name == WEIGHTS:
        # Eight bytes of length may look like any magic number, so these are judged by their header alone.
        return _taken(name, handle, opened)
    if (content := dangerous_content(os.pread(handle, HEAD_BYTES, 0))) is not None:
        raise UnsafeFileError(name, f"it is {content}, which can carry code", hint=_MOVE_AWAY)
    if name in TAKEN:
        return _taken(name, handle, opened)
    if name.lower().endswith(".safetensors"):
        raise UnsafeFileError(name, f"only {WEIGHTS} is served, and these weights would be left out", hint=_MOVE_AWAY)
    return None


def _check_kind(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise UnsafeFileError(name, f"it is {kind}", hint="copy the files themselves: cp -rL FOLDER COPY")
    if status.st_nlink > 1:
        raise UnsafeFileError(
            name,
            f"it is a hard link, one of {status.st_nlink} names of the same file",
            hint="copy the files themselves: cp -r --preserve=mode FOLDER COPY",
        )


def _taken(name: str, handle: int, status: os.stat_result) -> OpenFile:
    if status.st_size > MAX_BYTES[name]:
        raise UnsafeFileError(
            name, f"it has {status.st_size} bytes and at most {MAX_BYTES[name]} are taken", hint="make it smaller"
        )
    return OpenFile(name, handle, status.st_size)


def _require_adapter(folder: Path, files: list[OpenFile]) -> None:
    names = {file.name for file in files}
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise SourceNotFoundError(
                folder,
                f"has no {name}",
                hint=f"save it with PEFT's save_pretrained, which writes {CONFIG} and {WEIGHTS}",
            )
