"""The stat logger that vLLM finds under ``vllm.stat_logger_plugins``: it keeps what only the engine knows.

Imports vLLM; nothing but vLLM imports this.
"""

from __future__ import annotations

from typing import Any

from loractl.vllm_plugin.compat import Symbol
from loractl.vllm_plugin.readings import READINGS

_Base: Any = Symbol("vllm.v1.metrics.loggers", "StatLoggerBase").resolve()


class EngineStats(_Base):
    """Keeps the use of the KV cache. vLLM calls it after each step, in the process of its API server."""

    def __init__(self, vllm_config: object, engine_index: int = 0) -> None:
        """Take what vLLM gives every stat logger."""

    def record(self, scheduler_stats: object, *_: object, **__: object) -> None:
        """Keep the numbers of one step; a step without numbers of the scheduler says nothing."""
        use = getattr(scheduler_stats, "kv_cache_usage", None)
        if isinstance(use, float | int):
            READINGS.kv_use = float(use)

    def log_engine_initialized(self) -> None:
        """Say nothing: vLLM's own logger does."""
