"""PEFT's adapter_config.json, as far as it changes what an engine computes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loractl_registry.adapter_names import CONFIG
from loractl_registry.file_errors import AdapterConfigError, shown
from loractl_registry.home_errors import os_errors_named
from loractl_registry.strict_json import StrictJsonError, as_list, parse_object

MAX_CONFIG_BYTES = 2**20
MAX_RANK = 512
MAX_ALPHA = 1e6

# These only choose the first values of A and B; the saved adapter is a plain one. The others, such as pissa, olora,
# corda and loftq, change the weights of the base too, and a served base is as it was published.
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})

_MUST_BE_OFF: Mapping[str, str] = {
    "use_dora": "DoRA rescales the base's weights by learnt magnitudes, and the engine would leave them out",
    "lora_bias": "the engine adds no bias to B",
    "use_qalora": "QALoRA pools the inputs in groups, and the engine would not",
    "alora_invocation_tokens": "aLoRA acts only after certain tokens, and the engine would apply it to all",
    "layer_replication": "it stacks the base's layers anew, and the engine serves the base as it is",
    "use_bdlora": "BD-LoRA's factors are block-diagonal, and the engine would read them as dense",
    "trainable_token_indices": "it trains rows of the embedding, and the engine would leave them out",
    "arrow_config": "Arrow routes between several adapters, and the engine knows one a request",
    "kasa_config": "KaSA changes the base's weights and adds a diagonal between A and B",
    "monteclora_config": "MonteCLoRA samples around the adapter, and the engine would not",
    "ensure_weight_tying": "it ties adapters of tied layers, and the engine would not",
    "modules_to_save": "it replaces whole modules of the base, and the engine would leave them out",
    "fan_in_fan_out": "it is for bases with Conv1D layers such as GPT-2, which are not served",
}

# Keys that look like a variant and are none: they steer the training, or only how the first values are found.
_SETTINGS_OF_PLAIN_LORA = _MUST_BE_OFF.keys() | {
    "eva_config",
    "corda_config",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "runtime_config",
    "velora_config",
    "use_cache",
}

_SAVE_AGAIN = "save the adapter again with PEFT"
_HINTS: Mapping[str, str] = {
    "peft_type": "only LoRA adapters are served; train it with LoraConfig",
    "r": f"train it with a rank of 1 to {MAX_RANK}",
    "bias": "train it with bias='none'; the engine adds no bias",
}

_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.\-]{1,512}")
_FUSED_NAMES = ((".experts.base_layer", ".experts.gate_up_proj"), (".experts", ".experts.down_proj"))

Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(gt=0, le=MAX_ALPHA, allow_inf_nan=False)]
Names = tuple[str, ...] | str
_T = TypeVar("_T", int, float)


class AdapterConfig(BaseModel):
    """One validated adapter_config.json. Keys that change nothing at serving are allowed and not kept.

    Attributes:
        r: Rank where `rank_pattern` names no other.
        rank_pattern: Rank by module suffix; plain names only, so that no regular expression of a stranger is ever run.
        target_modules: Module names, or one regular expression as text, or None.
        target_parameters: Parameter names, for experts that are one fused tensor.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Alpha
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    rank_pattern: dict[str, Rank] = Field(default_factory=dict[str, Rank])
    alpha_pattern: dict[str, Alpha] = Field(default_factory=dict[str, Alpha])
    target_modules: Names | None
    target_parameters: tuple[str, ...] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    peft_version: str | None = None

    def rank_of(self, module: str) -> int:
        """Return the rank that PEFT and the engine use for `module`, a name without ``base_model.model.``."""
        return _matched(self.rank_pattern, module) or self.r

    def alpha_of(self, module: str) -> float:
        """Return the alpha that PEFT and the engine use for `module`."""
        return _matched(self.alpha_pattern, module) or self.lora_alpha

    def scaling_of(self, module: str) -> float:
        """Return what the product of A and B is multiplied with: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read ``adapter_config.json`` of a stored or a checked folder.

    Raises:
        AdapterConfigError: It is malformed, or asks for what the engine would not do.
        RegistryError: The operating system refused.
    """
    path = folder / CONFIG
    with os_errors_named(path), path.open("rb") as stream:
        return parse_adapter_config(stream.read(MAX_CONFIG_BYTES + 1))


def parse_adapter_config(data: bytes) -> AdapterConfig:
    """Validate the bytes of an adapter_config.json.

    Raises:
        AdapterConfigError: It is malformed, or asks for what the engine would not do; the message names the key.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterConfigError(f"it is larger than {MAX_CONFIG_BYTES} bytes", hint=_SAVE_AGAIN)
    try:
        held = parse_object(data)
    except StrictJsonError as error:
        raise AdapterConfigError(str(error), hint=_SAVE_AGAIN) from error
    _refuse_other_methods(held)
    normal = {key: value for key, value in held.items() if not (value is None and key.endswith("_pattern"))}
    for key in ("target_modules", "target_parameters"):
        if key in normal:
            normal[key] = _tupled(normal[key])
    try:
        config = AdapterConfig.model_validate(normal)
    except ValidationError as error:
        raise _named(error) from error
    _check_patterns(config)
    return config


def _refuse_other_methods(held: Mapping[str, object]) -> None:
    """Refuse what makes this more than A and B: a variant of LoRA, or an init that changed the base."""
    for key, reason in _MUST_BE_OFF.items():
        if held.get(key):
            raise AdapterConfigError(
                f"{key} is {shown(held[key])}: {reason}", key=key, hint=f"train it with {key} off, as plain LoRA"
            )
    init = held.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise AdapterConfigError(
            f"init_lora_weights is {shown(init)}, which also changed the weights of the base that it was trained on",
            key="init_lora_weights",
            hint="convert it to plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    known = _SETTINGS_OF_PLAIN_LORA | AdapterConfig.model_fields.keys()
    for key, value in held.items():
        if value and key not in known and (key.startswith("use_") or key.endswith("_config")):
            raise AdapterConfigError(
                f"{shown(key)} is {shown(value)}, a variant of LoRA that is not known to be served right",
                key=key,
                hint="train it without, or upgrade loractl",
            )


def _check_patterns(config: AdapterConfig) -> None:
    for key, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for pattern in patterns:
            if not _PLAIN_PATTERN.fullmatch(pattern):
                raise AdapterConfigError(
                    f"{key} names modules by {shown(pattern)}, and only plain names are taken",
                    key=key,
                    hint="write the names out, such as layers.0.self_attn.q_proj",
                )


def _matched(patterns: Mapping[str, _T], module: str) -> _T | None:
    """Return the value of the first pattern that names `module` or its end, as PEFT and vLLM match them."""
    for ending, parameter in _FUSED_NAMES:
        if module.endswith(ending):
            module = module.removesuffix(ending) + parameter
            break
    for pattern, value in patterns.items():
        # The pattern is a plain name, so the dot is the only character with a meaning of its own.
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return None


def _tupled(value: object) -> object:
    """Return a JSON list as the tuple that a frozen value holds, and anything else as it is."""
    items = as_list(value)
    return value if items is None else tuple(items)


def _named(error: ValidationError) -> AdapterConfigError:
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith("tuple[")))
    key = key.removesuffix(".str")
    if first["type"] == "missing":
        return AdapterConfigError(f"it has no {key}", key=key, hint=_SAVE_AGAIN)
    expected = first["msg"].removeprefix("Input should be ")
    return AdapterConfigError(
        f"{key} is {shown(first['input'])} and must be {expected}", key=key, hint=_HINTS.get(key, _SAVE_AGAIN)
    )
