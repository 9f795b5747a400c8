"""The operator's key of a home: who has it may use everything that its servers serve, and see what goes on there."""

from __future__ import annotations

import errno
import secrets
from pathlib import Path

from loractl.serving.errors import ServeError
from loractl.serving.state import read_private, run_folder, write_private

KEY_VARIABLE = "VLLM_API_KEY"


class OperatorKeyError(ServeError):
    """There is no operator's key, or it is not a secret."""

    code = "serve.operator_key"


class OperatorKeyMissingError(OperatorKeyError):
    """There is no operator's key, or it is another account's."""


def operator_key_path(home: Path) -> Path:
    """Return where a server leaves the operator's key for other commands on the same home."""
    return run_folder(home) / "operator.key"


def write_operator_key(home: Path, chosen: str | None) -> None:
    """Leave the key in the home: the one that the operator has chosen, else the one that is there, else a new one."""
    path = operator_key_path(home)
    if chosen is not None or not path.exists():
        write_private(path, chosen or secrets.token_urlsafe(32))


def read_operator_key(home: Path) -> str:
    """Return the key.

    Raises:
        OperatorKeyMissingError: There is none, or this account may not open it.
        OperatorKeyError: Others can read or replace it, it is no plain file, or it is empty.
    """
    path = operator_key_path(home)
    try:
        key = read_private(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        hint = f"make sure that it is yours alone, or remove it and start the server again: rm {path}"
        raise _kind_of(error)(f"cannot read the operator's key: {error}", hint=hint) from error
    if not key:
        raise OperatorKeyError(f"{path} is empty", hint=f"remove it and start the server again: rm {path}")
    return key


def _kind_of(error: OSError | UnicodeDecodeError) -> type[OperatorKeyError]:
    # What `read_private` finds wrong with a file that it has opened has no number.
    is_missing = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
    return OperatorKeyMissingError if is_missing else OperatorKeyError
