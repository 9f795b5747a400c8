"""vLLM's own LoRA manager on tiny models, without an engine: what it wraps, what that costs, and what it really loads.

Run as a script, it reads cases as JSON from stdin and writes what it saw to stdout: importing vLLM into the process of
the tests would warn, patch and cost half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_RANK = 8
SLOTS = 2


@dataclass(frozen=True)
class Case:
    """One base, and adapters to load into it.

    Attributes:
        options: Of vLLM's LoRA configuration, as ``EngineArgs`` calls them.
        adapters: By name, shapes by tensor name; and values of adapter_config.json.
        fused: Names of adapters that are said to be in the fused layout.
        paths: Attributes of the model whose class is wanted.
    """

    config: Mapping[str, object]
    options: Mapping[str, object] = field(default_factory=dict)
    adapters: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    peft: Mapping[str, object] = field(default_factory=dict)
    fused: Sequence[str] = ()
    paths: Sequence[str] = ()


@dataclass(frozen=True)
class Seen:
    """What vLLM made of a case.

    Attributes:
        modules: Class of the wrapper, by the engine's name of the module.
        slot_bytes: Bytes of one slot over all wrappers.
        loaded: By adapter, names of the modules whose A and B hold numbers afterwards, or the error.
        classes: By path, class of the attribute, and whether it is a wrapper.
    """

    modules: Mapping[str, str]
    slot_bytes: int
    loaded: Mapping[str, list[str] | str]
    classes: Mapping[str, str]


def see(cases: Mapping[str, Case]) -> dict[str, Seen]:
    """Run `cases` in a process of their own."""
    text = json.dumps({name: vars(case) for name, case in cases.items()})
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, __file__], input=text, capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: Seen(**seen) for name, seen in json.loads(done.stdout.splitlines()[-1]).items()}


def _main() -> None:
    cases = json.load(sys.stdin)
    _start_alone()
    print(json.dumps({name: _see(Case(**case)) for name, case in cases.items()}))


def _start_alone() -> None:
    from vllm.distributed import init_distributed_environment
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    rendezvous = Path(tempfile.mkdtemp()) / "rendezvous"
    from vllm.config import VllmConfig, set_current_vllm_config

    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{rendezvous}", 0, "gloo")
        from vllm.distributed import initialize_model_parallel

        initialize_model_parallel(1, 1)


def _see(case: Case) -> dict[str, object]:
    worker, model = _built(case)
    manager = worker._adapter_manager
    modules = dict(manager.modules)
    return {
        "modules": {name: type(module).__name__ for name, module in modules.items()},
        "slot_bytes": sum(_bytes(module) for module in modules.values()) // SLOTS,
        "loaded": {name: _loaded(worker, case, name) for name in case.adapters},
        "classes": {path: type(_at(model, path)).__name__ for path in case.paths},
    }


def _built(case: Case) -> tuple[Any, Any]:
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
    from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
    from vllm.utils.torch_utils import set_default_torch_dtype

    _register(case.config)
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(case.config))
    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=4,
        dtype="float32",
        kv_cache_memory_bytes=2**24,
        enable_lora=True,
        max_loras=SLOTS,
        max_cpu_loras=64,
        max_lora_rank=MAX_RANK,
        **case.options,
    )
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        with set_default_torch_dtype(torch.float32):
            model = initialize_model(config)
        process_weights_after_loading(model, config.model_config, torch.device("cpu"))
        worker = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), getattr(model, "embedding_modules", {}))
        worker.create_lora_manager(model, config)
    return worker, model


def _register(config: Mapping[str, object]) -> None:
    """Name the model's class outright: left alone, vLLM starts one more process to look at it."""
    from importlib import import_module

    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.registry import _TEXT_GENERATION_MODELS

    architecture = config["architectures"][0]  # type: ignore[index]
    module, name = _TEXT_GENERATION_MODELS[architecture]
    ModelRegistry.register_model(architecture, getattr(import_module(f"vllm.model_executor.models.{module}"), name))


def _buffers(module: Any) -> list[tuple[Any, Any]]:
    """Return the stacked A and B of a wrapper, in pairs."""
    if hasattr(module, "w13_lora_a_stacked"):
        return [
            *zip(module.w13_lora_a_stacked, module.w13_lora_b_stacked, strict=True),
            *zip(module.w2_lora_a_stacked, module.w2_lora_b_stacked, strict=True),
        ]
    a, b = module.lora_a_stacked, module.lora_b_stacked
    return list(zip(a, b, strict=True)) if isinstance(a, list | tuple) else [(a, b)]


def _bytes(module: Any) -> int:
    return sum(buffer.numel() * buffer.element_size() for pair in _buffers(module) for buffer in pair)


def _loaded(worker: Any, case: Case, name: str) -> list[str] | str:
    import torch
    from safetensors.torch import save_file
    from vllm.lora.request import LoRARequest

    folder = Path(tempfile.mkdtemp())
    save_file(
        {key: torch.ones(*shape) for key, shape in case.adapters[name].items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps(case.peft))
    number = 1 + list(case.adapters).index(name)
    try:
        worker.add_adapter(LoRARequest(name, number, str(folder), is_3d_lora_weight=name in case.fused))
    except Exception as error:  # noqa: BLE001  whatever vLLM raises is the answer
        return f"{type(error).__name__}: {error}"
    slot = worker._adapter_manager.lora_index_to_id.index(number)
    return [
        f"{module}#{part}"
        for module, wrapper in worker._adapter_manager.modules.items()
        for part, (a, b) in enumerate(_buffers(wrapper))
        if bool(a[slot].any()) and bool(b[slot].any())
    ]


def _at(model: Any, path: str) -> Any:
    found = model
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


if __name__ == "__main__":
    _main()
