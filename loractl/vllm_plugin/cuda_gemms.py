"""vLLM's launcher of the experts' bf16 and fp16 GEMM, with the deltas of the layer that runs in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loractl_kernels.grouped import ExpertTiles, GemmLaunch

if TYPE_CHECKING:
    from loractl.vllm_plugin.cuda_experts import LayerPass

layer: LayerPass | None = None
"""The layer that this process runs at present, if its deltas go into the GEMMs. `FusedDeltas` sets it."""

_SIZES = {
    "block_m": "BLOCK_SIZE_M", "block_n": "BLOCK_SIZE_N", "block_k": "BLOCK_SIZE_K", "group_m": "GROUP_SIZE_M",
    "num_warps": "num_warps", "num_stages": "num_stages",
}  # fmt: skip


def with_deltas(original: Callable[..., None]) -> Callable[..., None]:
    """Return `invoke_fused_moe_triton_kernel` with the deltas of `layer`, if there is one."""

    @functools.wraps(original)
    def launch(*operands: Any, **named: Any) -> None:
        if layer is None:
            original(*operands, **named)
            return
        x, w, y, _, _, _, pairs, expert, padded, is_second, _, config = operands
        sizes = {ours: config[theirs] for ours, theirs in _SIZES.items() if theirs in config}
        layer.gemm(y, x, w, ExpertTiles(pairs, expert, padded), GemmLaunch(**sizes), is_second=is_second)

    return launch
