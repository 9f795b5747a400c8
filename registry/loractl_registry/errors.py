"""What the registry refuses. Each error says what, the value, and the way out; `code` is stable."""

from __future__ import annotations


class RegistryError(Exception):
    """Root of everything that the registry raises on purpose.

    Attributes:
        code: Stable, dotted identifier for machines.
        hint: The way out, one imperative line, or None if there is none.
    """

    code = "registry.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(RegistryError):
    """The request itself is malformed. Exit code 2."""

    code = "registry.usage"


class DeniedError(RegistryError):
    """A rule, a check or a verification said no. Exit code 3."""

    code = "registry.denied"


class NotFoundError(RegistryError):
    """The named thing does not exist. Exit code 4."""

    code = "registry.not_found"


class ConflictError(RegistryError):
    """The request disagrees with what is already there. Exit code 5."""

    code = "registry.conflict"


class InvalidNameError(UsageError):
    """A name breaks the rule for names."""

    code = "registry.invalid_name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"invalid name {name[:80]!r}",
            hint="use 1 to 63 lower-case letters, digits, '-', '_' or '.', starting with a letter or digit",
        )
        self.name = name


class InvalidRefError(UsageError):
    """A ref is neither ``name``, ``name@live`` nor ``name@NUMBER``."""

    code = "registry.invalid_ref"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"invalid ref {text[:120]!r}", hint="write NAME, NAME@live or NAME@NUMBER, such as support-bot@3"
        )
        self.text = text
