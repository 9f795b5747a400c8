"""Proof of effect: that an adapter changes what its base says, in the engine as in a reference, with every pair of it.

Only `loractl.vllm_plugin.observing` imports vLLM, in a process of its own. torch and transformers are imported when a
proof is made, not when one is read.
"""

from __future__ import annotations

from loractl.proof.engine_side import AdapterUnderTest, EngineObservation, EngineSettings, observe
from loractl.proof.errors import (
    EngineSideError,
    MalformedProofError,
    PromptsError,
    ProofError,
    ReferenceUnavailableError,
)
from loractl.proof.prompts import PromptSet, choose_prompts
from loractl.proof.proving import Subject, prove, prove_modules, prove_with_reference
from loractl.proof.record import EffectProof, ProofKind
from loractl.proof.verdict import judge

__all__ = [
    "AdapterUnderTest",
    "EffectProof",
    "EngineObservation",
    "EngineSettings",
    "EngineSideError",
    "MalformedProofError",
    "PromptSet",
    "PromptsError",
    "ProofError",
    "ProofKind",
    "ReferenceUnavailableError",
    "Subject",
    "choose_prompts",
    "judge",
    "observe",
    "prove",
    "prove_modules",
    "prove_with_reference",
]
