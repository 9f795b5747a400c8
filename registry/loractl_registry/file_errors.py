"""What is refused about the files of an adapter or of a base."""

from __future__ import annotations

import reprlib
from pathlib import Path

from loractl_registry.errors import ConflictError, DeniedError, NotFoundError

_SHOWN = 120
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN


def shown(value: object) -> str:
    """Return `value` as a message may show it: quoted, escaped and short."""
    # A hostile value may have millions of parts, so only its beginning is ever turned into text.
    text = ascii(value[: _SHOWN + 1]) if isinstance(value, str) else _SHORT.repr(value)
    text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


class UnsafeFileError(DeniedError):
    """A file or a folder may hold code, or leads somewhere else, so nothing of it is taken."""

    code = "registry.unsafe_file"

    def __init__(self, file: str, problem: str, *, hint: str) -> None:
        super().__init__(f"refused {shown(file)}: {problem}", hint=hint)
        self.file = file


class MalformedSafetensorsError(DeniedError):
    """A safetensors file breaks the format, or the limits that keep it harmless.

    Attributes:
        tensor: Name of the tensor at fault, or None if the file as a whole is.
    """

    code = "registry.malformed_safetensors"

    def __init__(self, file: str, problem: str, *, tensor: str | None = None, hint: str | None = None) -> None:
        where = "" if tensor is None else f"tensor {shown(tensor)}: "
        super().__init__(
            f"malformed {shown(file)}: {where}{problem}",
            hint=hint or "write it again with safetensors.torch.save_file, or fetch it again",
        )
        self.file, self.tensor = file, tensor


class AdapterConfigError(DeniedError):
    """adapter_config.json is malformed, or asks for what the engine would not do.

    Attributes:
        key: The key at fault, or None if the file as a whole is.
    """

    code = "registry.adapter_config"

    def __init__(self, problem: str, *, key: str | None = None, hint: str) -> None:
        super().__init__(f"refused adapter_config.json: {problem}", hint=hint)
        self.key = key


class BaseFilesError(DeniedError):
    """The files of a base are incomplete, malformed or disagree with each other."""

    code = "registry.base_files"

    def __init__(self, file: str, problem: str, *, hint: str) -> None:
        super().__init__(f"refused {shown(file)}: {problem}", hint=hint)
        self.file = file


class ChangedWhileReadError(ConflictError):
    """A file changed while it was read."""

    code = "registry.changed_while_read"

    def __init__(self, file: str) -> None:
        super().__init__(f"{shown(file)} changed while it was read", hint="wait until it is written, then try again")
        self.file = file


class UnreadableError(DeniedError):
    """The operating system does not let us read a source."""

    code = "registry.unreadable"

    def __init__(self, file: str) -> None:
        super().__init__(f"may not read {shown(file)}", hint="make it readable for you, or copy it with a user who may")
        self.file = file


class SourceNotFoundError(NotFoundError):
    """There is no folder at the given path, or a file that it must hold is missing."""

    code = "registry.source_not_found"

    def __init__(self, path: Path, problem: str, *, hint: str) -> None:
        super().__init__(f"{path} {problem}", hint=hint)
        self.path = path
