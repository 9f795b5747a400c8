"""Why a proof of effect could not be made or read; that one failed is no error but its verdict."""

from __future__ import annotations

from loractl.engine.errors import EngineError


class ProofError(EngineError):
    """No proof could be made."""

    code = "proof.failed"


class PromptsError(ProofError):
    """The prompts that were named cannot be used."""

    code = "proof.prompts"


class EngineSideError(ProofError):
    """The engine did not run to the end."""

    code = "proof.engine"


class ReferenceUnavailableError(ProofError):
    """No reference can be computed here for this base: too large, quantised, or not known to transformers."""

    code = "proof.reference"


class MalformedProofError(ProofError):
    """The bytes are not a proof of effect."""

    code = "proof.malformed"
