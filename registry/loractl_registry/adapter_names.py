"""The names of an adapter's files."""

from __future__ import annotations

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
README = "README.md"

REQUIRED = (CONFIG, WEIGHTS)
TAKEN = frozenset({CONFIG, WEIGHTS, README})
