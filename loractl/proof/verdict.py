"""The rules: when the numbers of a proof show that an adapter does what its files say. The only place that knows them.

1. Effect: on some prompt the adapter's logprobs differ from the base's by more than `EFFECT_FACTOR` times the noise, in
   the engine and in the reference. Noise is what another batch composition changes, and at least one rounding of the
   largest logit.
2. Agreement: engine and reference differ by no more than the tolerance of the engine's dtype, for the adapter and for
   the base, and by no more than `AGREEMENT_SHARE` of the effect. The second keeps a wide tolerance from calling the
   base itself an agreement. Where the tolerance is wider than that share (16 bits, where rounding sends tokens to other
   experts), largest differences say little, and the medians over all places are held to it instead; a finding says so.
3. Every piece moves the output: out of the reference, it changes a logprob by more than `PIECE_FACTOR` times the
   reference's own noise. A piece whose A times B is zero never does.

The tolerance follows from the dtype and from how the model itself passes rounding on: the reference is read once more
with every module's output off by one unit roundoff of the engine's dtype, and `TOLERANCE_FACTOR` times what that
changes is allowed. An engine rounds several times where a module has one output (sums over the hidden size in another
order, residuals, attention), and the largest of many differences in one random draw stands for all draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loractl.proof.record import EngineFacts, Measured, PieceEffect, PromptNumbers, Verdict

EFFECT_FACTOR = 10.0
AGREEMENT_SHARE = 0.5
PIECE_FACTOR = 2.0
RESOLVED_FACTOR = 2.0
MODULE_FLOOR = 2.0**-20
"""Below this share of its module's own output, or of unit variance where that is not known, a piece is lost."""

TOLERANCE_FACTOR = 8.0
FP32_UNIT = 2.0**-24
_UNITS = {"float32": FP32_UNIT, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_TF32_UNIT = 2.0**-11
"""On a GPU, kernels may multiply float32 in TF32."""

_NAMED = 3


def judge(measured: Measured) -> Verdict:
    """Return what follows from `measured`, always the same for the same numbers."""
    from loractl.proof.record import ProofKind, Verdict, rounded  # they use these rules to check what they parse

    noise, tolerance = noise_of(measured), tolerance_of(measured)
    effect = _most(measured.prompts, lambda prompt: prompt.engine_effect)
    disagreement = _most(measured.prompts, lambda prompt: prompt.disagreement)
    reasons = [*_engine_reasons(effect, noise)]
    if measured.kind is ProofKind.ENGINE_AND_REFERENCE:
        reasons += _agreement_reasons(measured, noise, tolerance)
    reasons += _piece_reasons(measured)
    resolved = 0 if disagreement is None else sum(map(_is_resolved_by(disagreement), measured.pieces))
    return Verdict(
        passed=not reasons,
        reasons=tuple(reasons),
        findings=tuple(_findings(measured, resolved)),
        noise=None if noise is None else rounded(noise),
        tolerance=None if tolerance is None else rounded(tolerance),
        effect=effect,
        disagreement=disagreement,
        resolved=resolved,
    )


def noise_of(measured: Measured) -> float | None:
    """Return the noise of the engine that effects are held against, None if it did not run."""
    seen = _most(measured.prompts, lambda prompt: prompt.engine_noise)
    if seen is None or measured.engine is None or measured.logit_scale is None:
        return None
    return max(seen, measured.logit_scale * unit_of(measured.engine))


def tolerance_of(measured: Measured) -> float | None:
    """Return how far engine and reference may be apart, None without a reference."""
    if measured.engine is None or measured.logit_scale is None or measured.sensitivity is None:
        return None
    return TOLERANCE_FACTOR * max(measured.sensitivity, measured.logit_scale * unit_of(measured.engine))


def unit_of(engine: EngineFacts) -> float:
    """Return the unit roundoff of the engine's arithmetic."""
    if engine.device == "cuda" and engine.dtype == "float32":
        return _TF32_UNIT
    return _UNITS[engine.dtype]


def piece_floor(measured: Measured) -> float:
    """Return what the effect of a piece on a logprob must exceed."""
    return floor_of(measured.reference_noise or 0.0, measured.logit_scale or 0.0)


def floor_of(reference_noise: float, logit_scale: float) -> float:
    """Return the same, before there are measurements to judge."""
    return PIECE_FACTOR * max(reference_noise, logit_scale * FP32_UNIT)


def is_silent(piece: PieceEffect, measured: Measured) -> bool:
    """Whether a piece moves nothing."""
    from loractl.proof.record import How

    if piece.is_zero:
        return True
    if piece.how is How.MODULE:
        return (piece.effect if piece.relative is None else piece.relative) <= MODULE_FLOOR
    return piece.effect <= piece_floor(measured)


def _engine_reasons(effect: float | None, noise: float | None) -> Iterator[str]:
    if effect is not None and noise is not None and effect <= EFFECT_FACTOR * noise:
        yield (
            f"in the engine the adapter moves logprobs by {effect:.3g}, no more than {EFFECT_FACTOR:g} times its noise"
            f" of {noise:.3g}: it loads and does nothing"
        )


def _agreement_reasons(measured: Measured, noise: float | None, tolerance: float | None) -> Iterator[str]:
    effect = _most(measured.prompts, lambda prompt: prompt.reference_effect)
    apart = _most(measured.prompts, lambda prompt: prompt.disagreement)
    base_apart = _most(measured.prompts, lambda prompt: prompt.base_disagreement)
    if effect is None or apart is None or base_apart is None or noise is None or tolerance is None:
        yield "the engine or the reference did not run"
        return
    if effect <= EFFECT_FACTOR * noise:
        yield f"merged into the base the adapter moves logprobs by {effect:.3g}, within the noise: it has no effect"
    if base_apart > tolerance:
        yield f"engine and reference differ by {base_apart:.3g} on the base itself, more than {tolerance:.3g}"
    if apart > tolerance:
        yield f"engine and reference differ by {apart:.3g} with the adapter, more than {tolerance:.3g}"
    else:
        what = "differ"
        if tolerance > AGREEMENT_SHARE * effect:
            what = "typically differ"
            apart = median(prompt.typical_disagreement or 0.0 for prompt in measured.prompts)
            effect = median(prompt.typical_effect or 0.0 for prompt in measured.prompts)
        if apart > AGREEMENT_SHARE * effect:
            yield (
                f"engine and reference {what} by {apart:.3g} with the adapter, more than half of its effect of"
                f" {effect:.3g}: prove it in float32"
            )


def _piece_reasons(measured: Measured) -> Iterator[str]:
    if not measured.pieces:
        yield "no piece of the adapter was measured"
        return
    silent = [piece.module for piece in measured.pieces if is_silent(piece, measured)]
    if silent:
        yield f"{len(silent)} of {len(measured.pieces)} pairs move nothing: {_some(silent)}"


def _findings(measured: Measured, resolved: int) -> Iterator[str]:
    from loractl.proof.record import How, ProofKind

    pieces = measured.pieces
    if measured.kind is ProofKind.MODULES:
        yield "nothing was merged: each module's own output moves, and no reference says by how much the model's does"
        if measured.without_reference is not None:
            yield f"no reference: {measured.without_reference}"
        if measured.engine is None:
            yield "the engine did not run"
        return
    tolerance, effect = tolerance_of(measured), _most(measured.prompts, lambda prompt: prompt.reference_effect)
    if tolerance is not None and effect is not None and tolerance > AGREEMENT_SHARE * effect:
        yield f"the engine's dtype is coarse here (tolerance {tolerance:.3g}): medians were compared"
    beyond = [piece.module for piece in pieces if piece.is_elsewhere]
    if beyond:
        yield f"{len(beyond)} of {len(pieces)} pairs were reached by other prompts alone: {_some(beyond)}"
    if unreached := [piece.module for piece in pieces if piece.how is How.MODULE and not piece.is_zero]:
        yield f"{len(unreached)} of {len(pieces)} pairs were reached by no prompt: {_some(unreached)}"
    if resolved < len(pieces):
        yield f"{len(pieces) - resolved} of {len(pieces)} pairs weigh too little to be told apart in the engine alone"


def _is_resolved_by(disagreement: float) -> Callable[[PieceEffect], bool]:
    from loractl.proof.record import How

    def is_resolved(piece: PieceEffect) -> bool:
        is_own = piece.how is How.LEAVE_ONE_OUT and not piece.is_elsewhere
        return is_own and piece.effect > RESOLVED_FACTOR * disagreement

    return is_resolved


def _most(prompts: Sequence[PromptNumbers], of: Callable[[PromptNumbers], float | None]) -> float | None:
    return max((value for prompt in prompts if (value := of(prompt)) is not None), default=None)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
