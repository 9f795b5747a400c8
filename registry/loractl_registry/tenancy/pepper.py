"""The pepper: 32 secret bytes beside the database, without which what is stored of a key is worth nothing."""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress
from pathlib import Path

from loractl_registry._faults import reach
from loractl_registry._files import written_beside
from loractl_registry.home_errors import os_errors_named
from loractl_registry.home_errors import refusal_of as os_refusal_of
from loractl_registry.refusals import FileExistsRefusedError
from loractl_registry.tenancy.errors import PepperDamagedError, PepperNotFoundError, PepperPermissionsError
from loractl_registry.trust._small_files import read_small

PEPPER_BYTES = 32
_FOLDER, _FILE = "keys", "api-pepper"


class Pepper:
    """The secret of one home; shows nothing of itself."""

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != PEPPER_BYTES:
            raise ValueError(f"a pepper has {PEPPER_BYTES} bytes")
        # Keyed once: to look the hash up and to take the key in would be most of the cost of a short message.
        self._keyed = hmac.new(secret, digestmod="sha256")

    def __repr__(self) -> str:
        return "Pepper(hidden)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a pepper is not to be pickled")

    def mac(self, purpose: str, message: bytes) -> bytes:
        """Return HMAC-SHA-256 over `message`; what one `purpose` gives says nothing about another."""
        mac = self._keyed.copy()
        mac.update(purpose.encode() + b"\0" + message)
        return mac.digest()


def pepper_path(home: Path) -> Path:
    """Return where the pepper of `home` lies."""
    return home / _FOLDER / _FILE


def load_pepper(home: Path) -> Pepper:
    """Read the pepper, which only its owner may read.

    Raises:
        PepperNotFoundError: There is none.
        PepperPermissionsError: Others may read or write it.
        PepperDamagedError: It is no regular file of 32 bytes.
        RegistryError: The operating system refused.
    """
    path = pepper_path(home)
    try:
        secret, mode = read_small(path, PEPPER_BYTES)
    except FileNotFoundError as error:
        raise PepperNotFoundError(path) from error
    except PermissionError as error:
        raise os_refusal_of(error, path) from error
    except OSError as error:
        raise PepperDamagedError(path, error.strerror or "it cannot be read") from error
    if mode & 0o077:
        raise PepperPermissionsError(path, mode)
    if len(secret) != PEPPER_BYTES:
        raise PepperDamagedError(path, f"it has not exactly {PEPPER_BYTES} bytes")
    return Pepper(secret)


def ensure_pepper(home: Path) -> Pepper:
    """Return the pepper of `home`, created if there is none: mode 0600, whole or not there, and never over another.

    Raises:
        PepperPermissionsError, PepperDamagedError: The one that is there cannot be used.
        RegistryError: The operating system refused.
    """
    path = pepper_path(home)
    if not path.exists():
        with os_errors_named(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        # Another process may have been faster; then its pepper is the one that counts.
        with suppress(FileExistsRefusedError), written_beside(path) as part, os_errors_named(part):
            part.write_bytes(secrets.token_bytes(PEPPER_BYTES))
            reach("pepper.before_rename")
    return load_pepper(home)
