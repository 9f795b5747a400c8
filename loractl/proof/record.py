"""The evidence: what was measured, and what follows from it."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loractl.proof.errors import MalformedProofError
from loractl_registry.strict_json import StrictJsonError, parse_object

Schema = Literal["loractl.effect-proof/1"]
SCHEMA: Schema = "loractl.effect-proof/1"
MAX_BYTES = 64 * 2**20
LARGEST = 1e30
"""Stands for whatever is larger or not a number: JSON has no infinity."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Number = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class ProofKind(StrEnum):
    """What a proof rests on.

    ENGINE_AND_REFERENCE: the engine's logprobs of base and adapter, held against transformers with merged weights in
    fp32 on the same prompts, and every piece left out of that reference once.

    MODULES: each piece alone, on random activations, from the files. Nothing was merged, so it says that each module's
    output moves, not that the model's does; if the engine ran, it also says that the engine's logprobs moved.
    """

    ENGINE_AND_REFERENCE = "engine-and-reference"
    MODULES = "modules"


class How(StrEnum):
    """How the effect of one piece was measured.

    LEAVE_ONE_OUT: largest change of a logprob when it alone is taken out of the merged weights.
    GRADIENT: the same to first order, from one backward pass.
    MODULE: root mean square of what it adds to its module's output, for inputs of unit variance.
    """

    LEAVE_ONE_OUT = "leave-one-out"
    GRADIENT = "gradient"
    MODULE = "module"


class Strict(BaseModel):
    """What all parts have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineFacts(Strict):
    """Which engine ran, and where."""

    name: str
    version: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "float16", "bfloat16"]
    torch: str
    kernels: str


class PromptNumbers(Strict):
    """Largest differences of a logprob on one prompt, and typical ones; None where a side did not run.

    Attributes:
        engine_effect: Adapter against base, in the engine.
        engine_noise: The same model in one batch with all others against alone.
        reference_effect: Adapter against base, in the reference.
        disagreement: The adapter in the engine against the reference.
        base_disagreement: The base in the engine against the reference.
        typical_effect, typical_disagreement: Medians over the places of the prompt, of `reference_effect` and
            `disagreement`: a token that rounding sends to another expert moves a few places far, and no median.
    """

    tokens: Count
    engine_effect: Number | None = None
    engine_noise: Number | None = None
    reference_effect: Number | None = None
    disagreement: Number | None = None
    base_disagreement: Number | None = None
    typical_effect: Number | None = None
    typical_disagreement: Number | None = None


class PieceEffect(Strict):
    """The effect of one pair of tensors, or of one expert's projection in a pair that holds all experts.

    Attributes:
        module: Such as ``model.layers.0.mlp.experts.3.up_proj``, whatever the layout of the file.
        relative: For `How.MODULE`, the effect over the module's own output, if the base's weights could be read.
        is_zero: Whether its A times B is zero in every place.
        is_elsewhere: Whether none of the prompts reached it, and it was measured on further random tokens.
    """

    module: str
    effect: Number
    how: How
    relative: Number | None = None
    is_zero: bool = False
    is_elsewhere: bool = False


class Measured(Strict):
    """Everything that the verdict goes by.

    Attributes:
        prompts_source: Where the prompts came from: ``file``, ``card``, ``generic`` or ``random``.
        reference: Name and version of what the reference was computed with, or None.
        without_reference: Why there is none, or None.
        reference_noise: Base in one batch against alone, in the reference.
        sensitivity: What one rounding of the engine's dtype in every module's output changes, in the reference: the
            larger of base and adapter.
        logit_scale: Largest magnitude of a logit in the reference, for the tolerance; of a logprob, without one.
    """

    schema_: Schema = Field(default=SCHEMA, alias="schema")
    kind: ProofKind
    adapter_digest: Digest
    base_digest: Digest
    prompts_digest: Digest
    prompts_source: str
    engine: EngineFacts | None
    reference: str | None
    without_reference: str | None = None
    reference_noise: Number | None
    sensitivity: Number | None
    logit_scale: Number | None
    hidden_size: Count
    layers: Count
    prompts: tuple[PromptNumbers, ...]
    pieces: tuple[PieceEffect, ...]


class Verdict(Strict):
    """What follows.

    Attributes:
        reasons: Why not, one line a rule that was broken.
        findings: What is worth knowing all the same.
        noise, tolerance: What the rules made of the measured noise and of the dtype.
        resolved: Pieces whose own effect is larger than twice the disagreement, so that the engine must have used them.
    """

    passed: bool
    reasons: tuple[str, ...]
    findings: tuple[str, ...]
    noise: Number | None
    tolerance: Number | None
    effect: Number | None
    disagreement: Number | None
    resolved: Count


class EffectProof(Strict):
    """One proof. Two proofs of the same numbers are the same bytes."""

    measured: Measured
    verdict: Verdict

    @property
    def kind(self) -> ProofKind:
        """What it rests on."""
        return self.measured.kind

    @property
    def passed(self) -> bool:
        """Whether the adapter has the effect that it should."""
        return self.verdict.passed

    def to_json(self) -> bytes:
        """Return canonical JSON: sorted keys, no blanks, UTF-8."""
        values = self.model_dump(mode="json", by_alias=True)
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def parse(cls, data: bytes) -> EffectProof:
        """Read what `to_json` gave; the verdict is judged again from the numbers, so it cannot contradict them.

        Raises:
            MalformedProofError: It is not that, or its verdict does not follow from its numbers.
        """
        from loractl.proof.verdict import judge  # the rules need this module's types

        if len(data) > MAX_BYTES:
            raise MalformedProofError(f"a proof of effect of {len(data)} bytes, and at most {MAX_BYTES} are read")
        try:
            proof = cls.model_validate_json(json.dumps(parse_object(data)))
        except (StrictJsonError, ValidationError) as error:
            raise MalformedProofError(f"not a proof of effect: {_first_line(error)}", hint=_AGAIN) from error
        if judge(proof.measured) != proof.verdict:
            raise MalformedProofError("the verdict does not follow from the numbers beside it", hint=_AGAIN)
        return proof


_AGAIN = "make it again: loractl prove REF"


def rounded(value: float) -> float:
    """Return `value` as it is recorded: six digits, and never infinite."""
    return float(f"{value:.6g}") if value < LARGEST else LARGEST


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return str(error)
