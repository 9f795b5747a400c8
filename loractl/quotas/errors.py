"""What goes wrong with quotas other than running into one."""

from __future__ import annotations

import shlex
from pathlib import Path


class QuotaError(Exception):
    """Root of the errors of quotas. `code` is stable; `hint` is the way out."""

    code = "quotas.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UnknownTenantError(QuotaError):
    """The tenant has no place here: it was removed after the request was let in, or never was."""

    code = "quotas.unknown_tenant"

    def __init__(self, tenant: str) -> None:
        super().__init__(f"no quotas for tenant {tenant[:80]!a}", hint="run: loractl tenant list")
        self.tenant = tenant


class CountersUnusableError(QuotaError):
    """The file of the counters cannot be read or written."""

    code = "quotas.counters_unusable"

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(
            f"cannot use {path}: {found}",
            hint=f"free what holds it; or, to begin with quotas that nobody has used, run: rm {shlex.quote(str(path))}",
        )
        self.path = path
