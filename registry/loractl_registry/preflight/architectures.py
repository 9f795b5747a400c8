"""The modules of each known architecture that vLLM 0.32.0 adapts, layer by layer.

What is listed was compared with vLLM's own LoRA manager on tiny models, and what is inert was seen to change no output
there. Names are those of Hugging Face's modules, which adapters are written with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from loractl_registry.preflight.config_numbers import ConfigNumbers
from loractl_registry.preflight.modules import Experts, Inert, Linear, Part, Projection

Parts = Iterator[tuple[str, Part]]

_GATE_UP_DOWN = ("gate_proj", "up_proj", "down_proj")
_W1_W3_W2 = ("w1", "w3", "w2")
_ROUTER_KEPT = "the engine goes on routing with the router that it had before it added adapters"
_GATE_KEPT = "the engine goes on weighing the shared expert by the gate that it had before it added adapters"
_FOLDED = "the engine folds its weights into attention and never asks the adapter"
_NOT_PACKED = "the engine joins gate and up in one layer here and does not know the parts of it"
_MARLIN_HIDDEN, _MARLIN_INTERMEDIATE = 256, 128

EMBEDDINGS = frozenset({"llama", "mixtral", "qwen3", "qwen3_moe"})
"""Architectures of which the engine adapts ``embed_tokens`` and ``lm_head`` too."""

FUSED_NATIVELY = frozenset({"gpt_oss"})
"""Architectures whose experts vLLM adapts in the fused layout unless told to take both."""


def _attention(numbers: ConfigNumbers, *, head_dim: int | None = None) -> Parts:
    hidden, heads = numbers.number("hidden_size"), numbers.number("num_attention_heads")
    size = hidden // heads if head_dim is None else head_dim
    keys = (numbers.nullable("num_key_value_heads") or heads) * size
    yield "self_attn.q_proj", Linear(hidden, heads * size, "qkv_proj")
    yield "self_attn.k_proj", Linear(hidden, keys, "qkv_proj")
    yield "self_attn.v_proj", Linear(hidden, keys, "qkv_proj")
    yield "self_attn.o_proj", Linear(heads * size, hidden, "o_proj")


def _head_dim(numbers: ConfigNumbers) -> int | None:
    return numbers.number_or(0, "head_dim") or None


def _mlp(numbers: ConfigNumbers, path: str, intermediate: int, *, is_packed: bool = True) -> Parts:
    hidden = numbers.number("hidden_size")
    for name in ("gate_proj", "up_proj"):
        yield f"{path}.{name}", Linear(hidden, intermediate, "gate_up_proj") if is_packed else Inert(_NOT_PACKED)
    yield f"{path}.down_proj", Linear(intermediate, hidden, "down_proj")


def _router(numbers: ConfigNumbers, count: int, layer: str = "gate") -> Linear:
    return Linear(numbers.number("hidden_size"), count, layer)


def _experts(
    numbers: ConfigNumbers, count: int, intermediate: int, *namings: tuple[str, str, str], is_fused: bool = False
) -> Experts:
    hidden = numbers.number("hidden_size")
    gate, up, down = namings[0]
    projections = {
        alias: Projection(name, *features)
        for names in namings
        for alias, name, features in zip(
            names,
            (gate, up, down),
            ((hidden, intermediate), (hidden, intermediate), (intermediate, hidden)),
            strict=True,
        )
    }
    is_marlin = numbers.quantisation() == "mxfp4"
    return Experts(
        count=count,
        hidden=hidden,
        intermediate=intermediate,
        projections=projections,
        takes_per_expert=not is_fused,
        is_fused_natively=is_fused,
        padded_hidden=_rounded(hidden, _MARLIN_HIDDEN) if is_marlin else hidden,
        padded_intermediate=_rounded(intermediate, _MARLIN_INTERMEDIATE) if is_marlin else intermediate,
    )


def _rounded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _llama(numbers: ConfigNumbers, _layer: int) -> Parts:
    yield from _attention(numbers, head_dim=_head_dim(numbers))
    yield from _mlp(numbers, "mlp", numbers.number("intermediate_size"))


def _qwen2(numbers: ConfigNumbers, _layer: int) -> Parts:
    # Its code divides the hidden size by the heads, whatever the config says of head_dim.
    yield from _attention(numbers)
    yield from _mlp(numbers, "mlp", numbers.number("intermediate_size"))


def _qwen3(numbers: ConfigNumbers, _layer: int) -> Parts:
    yield from _attention(numbers, head_dim=numbers.number("head_dim"))
    yield from _mlp(numbers, "mlp", numbers.number("intermediate_size"))


def _qwen3_moe(numbers: ConfigNumbers, layer: int) -> Parts:
    yield from _attention(numbers, head_dim=_head_dim(numbers))
    if not _is_sparse(numbers, layer):
        # vLLM learns the parts of gate_up_proj from mlp_only_layers alone, not from decoder_sparse_step.
        is_packed = bool(numbers.layers_listed("mlp_only_layers"))
        yield from _mlp(numbers, "mlp", numbers.number("intermediate_size"), is_packed=is_packed)
        return
    yield "mlp.gate", Inert(_ROUTER_KEPT, _router(numbers, numbers.number("num_experts", "num_local_experts")))
    yield from _sparse(numbers)


def _qwen2_moe(numbers: ConfigNumbers, layer: int) -> Parts:
    yield from _attention(numbers)
    shared = numbers.number("shared_expert_intermediate_size", least=0)
    is_packed = bool(numbers.layers_listed("mlp_only_layers")) or shared > 0
    if not _is_sparse(numbers, layer):
        yield from _mlp(numbers, "mlp", numbers.number("intermediate_size"), is_packed=is_packed)
        return
    yield "mlp.gate", _router(numbers, numbers.number("num_experts", "num_local_experts"))
    if shared:
        yield "mlp.shared_expert_gate", Inert(_GATE_KEPT, _router(numbers, 1, "shared_expert_gate"))
        yield from _mlp(numbers, "mlp.shared_expert", shared)
    yield from _sparse(numbers)


def _is_sparse(numbers: ConfigNumbers, layer: int) -> bool:
    if layer in numbers.layers_listed("mlp_only_layers"):
        return False
    has_experts = numbers.number("num_experts", "num_local_experts", least=0) > 0
    return has_experts and (layer + 1) % numbers.number_or(1, "decoder_sparse_step") == 0


def _sparse(numbers: ConfigNumbers) -> Parts:
    count, intermediate = numbers.number("num_experts", "num_local_experts"), numbers.number("moe_intermediate_size")
    yield "mlp.experts", _experts(numbers, count, intermediate, _GATE_UP_DOWN)


def _olmoe(numbers: ConfigNumbers, _layer: int) -> Parts:
    yield from _attention(numbers)
    count = numbers.number("num_experts", "num_local_experts")
    yield "mlp.gate", _router(numbers, count)
    yield "mlp.experts", _experts(numbers, count, numbers.number("intermediate_size"), _GATE_UP_DOWN)


def _mixtral(numbers: ConfigNumbers, _layer: int) -> Parts:
    yield from _attention(numbers, head_dim=_head_dim(numbers))
    count = numbers.number("num_local_experts", "num_experts")
    yield "block_sparse_moe.gate", _router(numbers, count)
    # Newer Hugging Face code calls the block `mlp`. vLLM takes those names without a word and drops them.
    experts = _experts(numbers, count, numbers.number("intermediate_size"), _W1_W3_W2, _GATE_UP_DOWN)
    yield "block_sparse_moe.experts", experts


def _gpt_oss(numbers: ConfigNumbers, _layer: int) -> Parts:
    yield from _attention(numbers, head_dim=numbers.number("head_dim"))
    count = numbers.number("num_local_experts", "num_experts")
    yield "mlp.router", _router(numbers, count, "router")
    intermediate = numbers.number("intermediate_size")
    yield "mlp.experts", _experts(numbers, count, intermediate, _GATE_UP_DOWN, is_fused=True)


def _deepseek(numbers: ConfigNumbers, layer: int) -> Parts:
    yield from _latent_attention(numbers)
    first, step = numbers.number("first_k_dense_replace", least=0), numbers.number_or(1, "moe_layer_freq")
    if layer < first or layer % step:
        yield from _mlp(numbers, "mlp", numbers.number("intermediate_size"))
        return
    count, intermediate = numbers.number("n_routed_experts"), numbers.number("moe_intermediate_size")
    yield "mlp.gate", Inert(_ROUTER_KEPT, _router(numbers, count))
    if (shared := numbers.nullable("n_shared_experts")) is not None:
        yield from _mlp(numbers, "mlp.shared_experts", shared * intermediate)
    yield "mlp.experts", _experts(numbers, count, intermediate, _GATE_UP_DOWN)


def _latent_attention(numbers: ConfigNumbers) -> Parts:
    hidden, heads = numbers.number("hidden_size"), numbers.number("num_attention_heads")
    latent, rotary = numbers.number("kv_lora_rank"), numbers.number("qk_rope_head_dim")
    nope, values = numbers.number("qk_nope_head_dim"), numbers.number("v_head_dim")
    queries = heads * (nope + rotary)
    q_rank = numbers.nullable("q_lora_rank")
    joined = "kv_a_proj_with_mqa" if q_rank is None else "fused_qkv_a_proj"
    if q_rank is None:
        yield "self_attn.q_proj", Linear(hidden, queries, "q_proj")
    else:
        yield "self_attn.q_a_proj", Linear(hidden, q_rank, joined)
        yield "self_attn.q_b_proj", Linear(q_rank, queries, "q_b_proj")
    yield "self_attn.kv_a_proj_with_mqa", Linear(hidden, latent + rotary, joined)
    yield "self_attn.kv_b_proj", Inert(_FOLDED, Linear(latent, heads * (nope + values), "kv_b_proj"))
    yield "self_attn.o_proj", Linear(heads * values, hidden, "o_proj")


BUILDERS: Mapping[str, Callable[[ConfigNumbers, int], Parts]] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt_oss": _gpt_oss,
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
}
"""By model_type: yields name and part of each module of one layer."""
