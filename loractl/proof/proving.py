"""From an adapter and its base to a proof: by engine and reference where the base can be merged, else by modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loractl.proof.engine_side import AdapterReadings, EngineObservation
from loractl.proof.errors import EngineSideError, ReferenceUnavailableError
from loractl.proof.module_side import module_effect, module_effects
from loractl.proof.pieces import Piece, read_pieces
from loractl.proof.prompts import RANDOM_TOKENS, PromptSet, random_rows
from loractl.proof.readings import Reading, differences, largest, largest_logprob, typical
from loractl.proof.record import EffectProof, How, Measured, PieceEffect, PromptNumbers, ProofKind, rounded
from loractl.proof.reference_side import Ids, Reference
from loractl.proof.verdict import MODULE_FLOOR, floor_of, judge, unit_of

LEAVE_ONE_OUT_S = 120.0
_FURTHER_ROWS, _FURTHER_ROUNDS = 32, 3


@dataclass(frozen=True, slots=True)
class Subject:
    """What is proven.

    Attributes:
        name: The adapter's name in the engine's observation.
        config: The base's config.json.
    """

    name: str
    adapter: Path
    adapter_digest: str
    base: Path
    base_digest: str
    config: Mapping[str, object]


def prove(subject: Subject, prompts: PromptSet, observation: EngineObservation | None) -> EffectProof:
    """Prove by engine and reference if the engine ran and the base can be merged here, else by modules.

    Raises:
        EngineSideError: The engine would not load the adapter.
        DeniedError: The adapter's files are malformed.
    """
    if observation is None:
        return prove_modules(subject, prompts, None)
    try:
        reference = Reference(subject.base, subject.config)
        return prove_with_reference(subject, prompts, observation, reference)
    except ReferenceUnavailableError as error:
        return prove_modules(subject, prompts, observation, why=str(error))


def prove_with_reference(
    subject: Subject,
    prompts: PromptSet,
    observation: EngineObservation,
    reference: Reference,
    *,
    budget_s: float = LEAVE_ONE_OUT_S,
) -> EffectProof:
    """Hold the engine's readings against merged weights, and take every piece out of them once.

    Args:
        subject: What is proven.
        prompts: What the engine was asked.
        observation: What it said.
        reference: The base; the adapter is merged into it meanwhile, and one reference serves many proofs.
        budget_s: Beyond this, pieces are measured by a gradient.

    Raises:
        EngineSideError: The engine would not load the adapter.
        ReferenceUnavailableError: A module of the adapter has no place in transformers' model.
    """
    own = _adapter_of(subject, observation)
    rows = prompts.rows
    ids = _joined(observation.base.batched.ids(), own.batched.ids())
    base = reference.read(rows, ids)
    noise = largest(differences(base, reference.read_alone(rows, ids)))
    scale = reference.logit_scale(rows)
    unit = unit_of(observation.facts)
    sensitivity = largest(differences(base, reference.read_rounded(rows, ids, unit)))
    pieces = list(read_pieces(subject.adapter, subject.config))
    with reference.merged(pieces):
        adapter = reference.read(rows, ids)
        scale = max(scale, reference.logit_scale(rows))
        sensitivity = max(sensitivity, largest(differences(adapter, reference.read_rounded(rows, ids, unit))))
        effects = _piece_effects(reference, pieces, prompts, ids, floor=floor_of(noise, scale), budget_s=budget_s)
    measured = Measured(
        kind=ProofKind.ENGINE_AND_REFERENCE,
        adapter_digest=subject.adapter_digest,
        base_digest=subject.base_digest,
        prompts_digest=prompts.digest,
        prompts_source=prompts.source,
        engine=observation.facts,
        reference=reference.name,
        reference_noise=rounded(noise),
        sensitivity=rounded(sensitivity),
        logit_scale=rounded(scale),
        hidden_size=_number(subject.config, "hidden_size"),
        layers=_number(subject.config, "num_hidden_layers"),
        prompts=_numbers(prompts, observation.base, own, (base, adapter)),
        pieces=effects,
    )
    return EffectProof(measured=measured, verdict=judge(measured))


def prove_modules(
    subject: Subject, prompts: PromptSet, observation: EngineObservation | None, *, why: str | None = None
) -> EffectProof:
    """Measure each piece on random activations from the files alone, beside what the engine said, if it ran.

    `why` says why there is no reference.

    Raises:
        EngineSideError: The engine would not load the adapter.
    """
    own = None if observation is None else _adapter_of(subject, observation)
    scale = None
    if observation is not None and own is not None:
        scale = rounded(max(largest_logprob(observation.base.batched), largest_logprob(own.batched)))
    measured = Measured(
        kind=ProofKind.MODULES,
        adapter_digest=subject.adapter_digest,
        base_digest=subject.base_digest,
        prompts_digest=prompts.digest,
        prompts_source=prompts.source,
        engine=None if observation is None else observation.facts,
        reference=None,
        without_reference=why,
        reference_noise=None,
        sensitivity=None,
        logit_scale=scale,
        hidden_size=_number(subject.config, "hidden_size"),
        layers=_number(subject.config, "num_hidden_layers"),
        prompts=() if observation is None or own is None else _numbers(prompts, observation.base, own, None),
        pieces=tuple(module_effects(read_pieces(subject.adapter, subject.config), subject.base)),
    )
    return EffectProof(measured=measured, verdict=judge(measured))


def _adapter_of(subject: Subject, observation: EngineObservation) -> AdapterReadings:
    if (why := observation.refused.get(subject.name)) is not None:
        raise EngineSideError(f"the engine would not load {subject.name}: {why}")
    return observation.adapters[subject.name]


def _numbers(
    prompts: PromptSet, base: AdapterReadings, adapter: AdapterReadings, merged: tuple[Reading, Reading] | None
) -> tuple[PromptNumbers, ...]:
    columns: dict[str, Sequence[float]] = {
        "engine_effect": differences(base.batched, adapter.batched),
        "engine_noise": [
            max(pair)
            for pair in zip(
                differences(base.batched, base.alone), differences(adapter.batched, adapter.alone), strict=True
            )
        ],
    }
    if merged is not None:
        reference_base, reference_adapter = merged
        columns["reference_effect"] = differences(reference_base, reference_adapter)
        columns["disagreement"] = differences(adapter.batched, reference_adapter)
        columns["base_disagreement"] = differences(base.batched, reference_base)
        columns["typical_effect"] = typical(reference_base, reference_adapter)
        columns["typical_disagreement"] = typical(adapter.batched, reference_adapter)
    return tuple(
        PromptNumbers(tokens=len(row), **{name: rounded(values[number]) for name, values in columns.items()})
        for number, row in enumerate(prompts.rows)
    )


def _piece_effects(
    reference: Reference, pieces: Sequence[Piece], prompts: PromptSet, ids: Ids, *, floor: float, budget_s: float
) -> tuple[PieceEffect, ...]:
    """Measure every piece, those that no prompt moves on further random tokens, and what is out of reach by its module.

    What is reached and moves nothing above `floor` stays so.
    """
    alone = {piece.name: module_effect(piece) for piece in pieces}
    found = {name: effect for name, effect in alone.items() if effect.effect <= MODULE_FLOOR}
    left = [piece for piece in pieces if piece.name not in found]
    rows = prompts.rows
    words = max(map(max, rows)) + 1
    for number in range(1 + _FURTHER_ROUNDS):
        if not left:
            break
        if number:
            rows = random_rows(words, _FURTHER_ROWS, seed=number, tokens=2 * RANDOM_TOKENS)
            ids = reference.likeliest(rows)
        effects, how = _measure(reference, left, rows, ids, budget_s)
        for piece in left:
            effect = effects[piece.name]
            # Only an expert can be out of reach: any other module sees every token.
            if effect > floor or piece.place.expert is None:
                found[piece.name] = PieceEffect(
                    module=piece.name, effect=rounded(effect), how=how, is_elsewhere=number > 0
                )
            elif effect > 0:
                alone[piece.name] = PieceEffect(module=piece.name, effect=rounded(effect), how=how)
        left = [piece for piece in left if piece.name not in found]
    return tuple(found.get(piece.name, alone[piece.name]) for piece in pieces)


def _measure(
    reference: Reference, pieces: Sequence[Piece], rows: Sequence[Sequence[int]], ids: Ids, budget_s: float
) -> tuple[Mapping[str, float], How]:
    effects = reference.leave_one_out(pieces, rows, ids, budget_s=budget_s)
    if effects is not None:
        return effects, How.LEAVE_ONE_OUT
    return reference.gradients(pieces, rows, ids), How.GRADIENT


def _joined(one: Ids, other: Ids) -> Ids:
    return [
        [sorted({*a, *b}) for a, b in zip(rows, others, strict=True)] for rows, others in zip(one, other, strict=True)
    ]


def _number(config: Mapping[str, object], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else 0
