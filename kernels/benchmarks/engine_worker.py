"""What the whole-engine benchmark adds to vLLM's worker: dummy weights that give comparable log-probabilities.

vLLM's dummy weights lie within 0.001 of zero, norms too, so that every token is as likely as any other. Real models'
weights are about twenty times as wide, and their norms about one.
"""

from __future__ import annotations

import torch
from torch import nn

WIDEN = 20.0


class WideWeights:
    """A worker extension; vLLM calls its method by name."""

    def widen_weights(self) -> int:
        """Widen the dummy weights in place and return how many tensors changed.

        In place, because captured graphs point at them. The biases of the experts become zero: each expert back end
        pads them in its own way, so the same seed means other values. Quantised experts stay as they are, zero.
        """
        model: nn.Module = self.model_runner.get_model()  # type: ignore[attr-defined]
        return widen(model)


@torch.inference_mode()
def widen(model: nn.Module) -> int:
    """Widen the floating-point parameters of `model` in place and return how many changed."""
    changed = 0
    for name, weight in model.named_parameters():
        if weight.dtype.itemsize < 2 or not weight.is_floating_point() or "scale" in name:
            continue
        if "norm" in name:
            weight.fill_(1.0)
        elif "experts" in name and "bias" in name:
            weight.zero_()
        else:
            weight.mul_(WIDEN)
        changed += 1
    return changed
