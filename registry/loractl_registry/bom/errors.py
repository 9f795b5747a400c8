"""What is refused about a bill of materials."""

from __future__ import annotations

from loractl_registry.errors import RegistryError


class BomInvalidError(RegistryError):
    """The bill breaks CycloneDX's schema: a defect of ours, or of the file that was given."""

    code = "bom.invalid"

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(
            f"the bill of materials breaks CycloneDX's schema at {place}: {problem}",
            hint="report it with the output of: loractl show REF --json",
        )
        self.place = place


class BomUnavailableError(RegistryError):
    """The library that writes bills of materials, or what it validates with, is not installed."""

    code = "bom.unavailable"

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"cannot write or check a bill of materials: {missing} is not installed",
            hint="install loractl again with its dependencies",
        )
        self.missing = missing
