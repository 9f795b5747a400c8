"""What is refused about tenants and their API keys. No message holds a secret, or a part of one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from loractl_registry.clock import to_text
from loractl_registry.errors import ConflictError, DeniedError, NotFoundError, UsageError
from loractl_registry.file_errors import shown


class TenantError(UsageError):
    """Something that was said about a tenant cannot be so. Exit code 2.

    Attributes:
        field: What it was said about.
    """

    code = "tenancy.invalid_tenant"

    def __init__(self, field: str, value: object, *, hint: str) -> None:
        super().__init__(f"invalid {field} {shown(value)}", hint=hint)
        self.field = field


class TenantNotFoundError(NotFoundError):
    """There is no tenant of this name."""

    code = "tenancy.tenant_not_found"

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "run: loractl tenant list"
        super().__init__(f"no tenant {shown(name)}", hint=hint)
        self.name = name


class TenantExistsError(ConflictError):
    """There is a tenant of this name already."""

    code = "tenancy.tenant_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"tenant {name} exists", hint=f"change it: loractl tenant set {name}, or choose another name")
        self.name = name


class TenantRefusedError(DeniedError):
    """The row of a tenant is not what the audit log says, so that nothing is built on it."""

    code = "tenancy.tenant_refused"

    def __init__(self, name: str, objection: str) -> None:
        super().__init__(
            f"refused tenant {name}: {objection}",
            hint=f"restore the newest backup, or remove it and add it again: loractl tenant remove {name}",
        )
        self.name, self.objection = name, objection


class ApiKeyNotFoundError(NotFoundError):
    """No key has this prefix."""

    code = "tenancy.key_not_found"

    def __init__(self, prefix: str) -> None:
        super().__init__(f"no API key with the prefix {prefix}", hint="run: loractl key list")
        self.prefix = prefix


class ApiKeyPrefixError(UsageError):
    """It is not the prefix of a key. The message does not repeat it, because people paste whole keys."""

    code = "tenancy.key_prefix"

    def __init__(self) -> None:
        super().__init__(
            "that is not the prefix of an API key",
            hint="name it by the 12 hexadecimal digits that `loractl key list` shows",
        )


class ApiKeyExpiryError(UsageError):
    """A key would be expired from the start."""

    code = "tenancy.key_expiry"

    def __init__(self, expires_at: datetime) -> None:
        super().__init__(
            f"cannot create a key that expired at {to_text(expires_at)}", hint="choose a later end, or none"
        )
        self.expires_at = expires_at


class PepperNotFoundError(NotFoundError):
    """The home has no pepper, so none of its API keys can be checked."""

    code = "tenancy.pepper_not_found"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"no pepper at {path}, without which no API key can be checked",
            hint="restore it from a copy; without one, remove every tenant, add it again and create new keys",
        )
        self.path = path


class PepperPermissionsError(DeniedError):
    """Others than the owner may read or write the pepper."""

    code = "tenancy.pepper_permissions"

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(
            f"refused pepper {path}: its mode is {mode:04o}, so others may use it",
            hint=f"run: chmod 600 {shlex.quote(str(path))}",
        )
        self.path, self.mode = path, mode


class PepperDamagedError(DeniedError):
    """The file is no whole pepper."""

    code = "tenancy.pepper_damaged"

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"refused pepper {path}: {problem}",
            hint="restore it from a copy; without one, move it away, remove every tenant and add it again",
        )
        self.path = path
