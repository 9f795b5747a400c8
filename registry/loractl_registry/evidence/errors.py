"""What is refused about evidence."""

from __future__ import annotations

from loractl_registry.errors import ConflictError, DeniedError, NotFoundError, RegistryError, UsageError
from loractl_registry.refs import VersionRef


class EvidenceError(DeniedError):
    """The file is not what its type says, or two readers could read it differently; nothing was kept."""

    code = "registry.evidence"

    def __init__(self, problem: str, *, hint: str) -> None:
        super().__init__(f"refused evidence: {problem}", hint=hint)


class EvidenceSizeError(DeniedError):
    """The file is larger than evidence may be, or empty."""

    code = "registry.evidence_size"

    def __init__(self, problem: str) -> None:
        super().__init__(f"refused evidence: {problem}", hint="keep the results, and link what is larger in the notes")


class TooMuchEvidenceError(ConflictError):
    """A version has as much evidence as it may have."""

    code = "registry.evidence_count"

    def __init__(self, ref: VersionRef, limit: int) -> None:
        super().__init__(
            f"{ref} has {limit} pieces of evidence, and no more are kept", hint="add what is left as one summary"
        )
        self.ref = ref


class EvidenceNotFoundError(NotFoundError):
    """No piece of evidence about the version has such a digest."""

    code = "registry.evidence_not_found"

    def __init__(self, ref: VersionRef, digest: str) -> None:
        super().__init__(
            f"{ref} has no evidence {digest[:80]!r}", hint=f"see what there is: loractl evidence list {ref}"
        )
        self.ref, self.digest = ref, digest


class NoScannerError(UsageError):
    """Nobody said which command scans."""

    code = "registry.no_scanner"

    def __init__(self, ref: VersionRef) -> None:
        super().__init__(
            f"cannot scan {ref}: no scanner is set",
            hint=f"name one: loractl evidence scan {ref} -- COMMAND, or set scan_command in config.toml",
        )
        self.ref = ref


class ScannerError(RegistryError):
    """The scanner could not be started, so it said nothing; nothing was kept."""

    code = "registry.scanner"

    def __init__(self, program: str, problem: str) -> None:
        super().__init__(f"cannot start the scanner {program[:200]!r}: {problem}", hint="install it, or name another")
        self.program = program
