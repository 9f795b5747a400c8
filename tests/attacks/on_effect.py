"""Attacks by adapters that would load, or be dropped without a word, and change nothing or less than they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attacks.acting import run
from attacks.declaring import Attack, Has, Threat
from attacks.on_files import CONFIG, configured
from attacks.scene import Scene
from support.registry import (
    TINY,
    BaseShape,
    attention_shapes,
    expert_shapes,
    random_tensors,
    safetensors_bytes,
    write_adapter,
)

REFUSED = "registry.preflight_refused"
CLIMB = run("add novel {folder}", "promote novel@1")
RANK, PREFIX = 4, "base_model.model."
EXPERTS = f"{PREFIX}model.layers.0.mlp.experts"
Tensors = dict[str, tuple[str, Sequence[int], bytes]]
Shapes = Mapping[str, Sequence[int]]


def _good() -> Tensors:
    return random_tensors(attention_shapes(TINY, RANK) | expert_shapes(TINY, RANK), 6)


def written(change: Callable[[Tensors], Tensors]) -> Callable[[Scene], None]:
    """Change the tensors of the adapter."""

    def spoil(scene: Scene) -> None:
        (scene.folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(change(_good())))

    return spoil


def renamed(old: str, new: str) -> Callable[[Scene], None]:
    return written(lambda tensors: {name.replace(old, new): value for name, value in tensors.items()})


def without(part: str) -> Callable[[Scene], None]:
    return written(lambda tensors: {name: value for name, value in tensors.items() if part not in name})


def zeroed(part: str) -> Callable[[Scene], None]:
    def change(tensors: Tensors) -> Tensors:
        return {
            name: (dtype, shape, bytes(len(data)) if part in name else data)
            for name, (dtype, shape, data) in tensors.items()
        }

    return written(change)


def _not_a_number(tensors: Tensors) -> Tensors:
    name, (dtype, shape, data) = next(iter(tensors.items()))
    return tensors | {name: (dtype, shape, b"\xc0\x7f" + data[2:])}


def _half_of_the_fused(scene: Scene) -> None:
    """Write what PEFT saves for target_parameters=['mlp.experts.gate_up_proj'] alone."""
    rank, stacked = RANK, RANK * TINY.experts
    shapes: Shapes = {
        f"{EXPERTS}.base_layer.lora_A.weight": (stacked, TINY.hidden),
        f"{EXPERTS}.base_layer.lora_B.weight": (2 * TINY.expert_hidden, stacked),
    }
    (scene.folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(random_tensors(shapes, 6)))
    configured(r=rank, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])(scene)


def _of_another_base(scene: Scene) -> None:
    write_adapter(scene.folder, BaseShape(hidden=32), on_experts=True)


def stopping(id_: str, deed: str, spoil: Callable[[Scene], object], says: str, code: str = REFUSED) -> Attack:
    """Return an attack by an adapter that must not reach candidate."""
    return Attack(id_, Threat.NO_EFFECT, Has.FILES, deed, spoil, CLIMB, code, says)


ATTACKS = (
    stopping("alpha-zero", "Set `lora_alpha` to 0", configured(lora_alpha=0), "lora_alpha is 0", CONFIG),
    stopping("dora", "Train with DoRA, whose magnitudes vLLM drops", configured(use_dora=True), "use_dora", CONFIG),
    stopping("b-zero", "Leave every B at zero, as it was before training", zeroed(".lora_B"), "no effect at all"),
    stopping("a-zero", "Set every A to zero", zeroed(".lora_A"), "no effect at all"),
    stopping(
        "b-zero-of-one-module",
        "Leave B at zero for one module, in all its layers",
        zeroed("v_proj.lora_B"),
        "is all zero, and so is one of every pair of",
    ),
    stopping("not-a-number", "Let one weight be NaN", written(_not_a_number), "has values that are not finite"),
    stopping("no-prefix", "Save without PEFT's prefix", renamed(PREFIX, ""), "does not begin with"),
    stopping("prefix-twice", "Save with the prefix twice", renamed(PREFIX, PREFIX * 2), "not one that the engine"),
    stopping(
        "name-of-an-adapter",
        "Leave the name of PEFT's adapter in the tensors' names",
        renamed(".weight", ".default.weight"),
        "name of PEFT's adapter",
    ),
    stopping(
        "unknown-module",
        "Name a module that the base does not have",
        renamed("v_proj", "value_projection"),
        "not one that the engine adapts",
    ),
    stopping(
        "layer-beyond-the-last",
        "Adapt a layer behind the last",
        renamed("layers.0", "layers.7"),
        "not one that the engine adapts",
    ),
    stopping("dropped-expert", "Leave out one expert", without("experts.2."), "missing"),
    stopping("dropped-projection", "Leave out one projection of every expert", without(".up_proj."), "missing"),
    stopping("lone-a", "Leave out one B", without("q_proj.lora_B"), "q_proj.lora_A.weight"),
    stopping(
        "half-of-target-parameters",
        "Train `target_parameters` with `gate_up_proj` alone, of which vLLM makes nothing",
        _half_of_the_fused,
        "module 'model.layers.0.mlp.experts' is missing",
    ),
    stopping("rank-said-wrong", "Say another rank than the tensors have", configured(r=8), "at rank 8"),
    stopping("other-base", "Train it on a base of other sizes", _of_another_base, "[4, 32]"),
)
