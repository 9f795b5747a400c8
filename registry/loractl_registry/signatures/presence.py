"""What is missing when the library that signs cannot be imported."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from loractl_registry.signatures.errors import SigningUnavailableError


@contextmanager
def imports_named() -> Generator[None]:
    """Turn a failed import inside the block into an error that names the package.

    model-signing 1.1.1 needs pyopenssl and does not declare it, so that it may be there and still not import.

    Raises:
        SigningUnavailableError: A package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise SigningUnavailableError(error.name or "model-signing") from error
