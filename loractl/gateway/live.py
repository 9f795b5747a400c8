"""What goes on right now, as the operator's page and ``loractl top`` show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from loractl.gateway.controls import Controls
from loractl.gateway.reconciler import Reconciler
from loractl.observability.live_state import (
    AdapterFacts,
    BaseFacts,
    EngineFacts,
    HealthFacts,
    LimitStanding,
    TenantFacts,
    live_state,
)
from loractl_registry import utc_now


class LiveState:
    """Puts the parts together.

    Args:
        slots: Adapters that the engine holds at once.
        fairness: Which rule admits requests.
    """

    def __init__(self, controls: Controls, *, slots: int, fairness: str) -> None:
        self._controls, self._slots, self._fairness = controls, slots, fairness
        self._started = time.monotonic()

    def gathered(self, reconciler: Reconciler, trouble: str | None) -> Callable[[], dict[str, object]]:
        """Gather this moment, `trouble` being what ``/health`` tells the operator, and return what makes the document.

        Making it takes milliseconds, is a pure function of copies, and belongs on another thread.
        """
        snapshot, room = reconciler.snapshot, reconciler.engine.room()
        return partial(
            live_state,
            self._controls.numbers(),
            now=utc_now(),
            base=BaseFacts(snapshot.base.name, snapshot.base.digest),
            health=HealthFacts("ok" if trouble is None else "degraded", trouble),
            fairness=self._fairness,
            capacity=EngineFacts(room.max_num_seqs, self._slots, room.kv_use),
            adapters=[AdapterFacts(one.ref.name, one.ref.number, one.stage.value) for one in snapshot.versions],
            tenants=tuple(self._tenants()),
            uptime_s=time.monotonic() - self._started,
        )

    def _tenants(self) -> Iterator[TenantFacts]:
        for name, caller in self._controls.door.callers.tenants.items():
            if caller.tenant is not None:
                standing = [LimitStanding(*gauge) for gauge in self._controls.quotas.standing(name, "")]
                limits = caller.tenant.limits.to_dict()
                yield TenantFacts(name, caller.tenant.weight, limits, standing, caller.tenant.priority.value)
