"""The names of an adapter's files."""

from __future__ import annotations

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
README = "README.md"
SIGNATURE = "model.sig"

REQUIRED = (CONFIG, WEIGHTS)
TAKEN = frozenset({CONFIG, WEIGHTS, README})
FETCHED = (*REQUIRED, README, SIGNATURE)
"""The signature says who made the others, and is kept apart from them."""
