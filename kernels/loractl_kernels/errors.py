"""What the operations refuse."""

from __future__ import annotations


class KernelError(Exception):
    """Root of the errors of this package. `code` is stable."""

    code = "kernels.failed"


class ShapeError(KernelError, ValueError):
    """Operands disagree; the message names the operand, what it should be and what it is."""

    code = "kernels.shape"

    def __init__(self, operand: str, *, expected: str, found: tuple[int, ...]) -> None:
        super().__init__(f"{operand} must be {expected}, and it is {list(found)}")
        self.operand, self.expected, self.found = operand, expected, found


class DtypeError(KernelError, TypeError):
    """An operand has a dtype that the operation does not take."""

    code = "kernels.dtype"

    def __init__(self, operand: str, *, expected: str, found: str) -> None:
        super().__init__(f"{operand} must be {expected}, and it is {found}")
        self.operand, self.expected, self.found = operand, expected, found


class BackendError(KernelError):
    """The named back end cannot do this here; no other is taken in its place."""

    code = "kernels.backend"
