"""vLLM finds the stat logger by its entry point, and what it keeps is what the scheduler says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from loractl.vllm_plugin.readings import READINGS

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_stat_logger_is_vllms_and_keeps_the_use_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.metrics.loggers import StatLoggerBase, load_stat_logger_plugin_factories
    from vllm.v1.metrics.stats import SchedulerStats

    monkeypatch.setattr(READINGS, "kv_use", 0.0)
    (ours,) = [one for one in load_stat_logger_plugin_factories() if one.__module__ == "loractl.vllm_plugin.stats"]
    logger = ours(SimpleNamespace(), 0)

    logger.record(
        scheduler_stats=SchedulerStats(kv_cache_usage=0.5), iteration_stats=None, mm_cache_stats=None, engine_idx=0
    )
    logger.record(scheduler_stats=None, iteration_stats=None)
    logger.log_engine_initialized()

    assert isinstance(logger, StatLoggerBase)
    assert READINGS.kv_use == 0.5
