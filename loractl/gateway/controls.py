"""What every request passes on its way: the door, its tenant's quotas, and the queue for a turn."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from loractl.fairness import AdmissionController, Priority, Request
from loractl.gateway.amounts import Amounts
from loractl.gateway.callers import Caller, Callers, Door
from loractl.gateway.errors import QuotaExceededError, UnauthorizedError
from loractl.gateway.exchange import Journal
from loractl.gateway.table import Target
from loractl.observability.snapshot import Snapshot
from loractl.quotas import Quotas, Refusal, Reservation, UnknownTenantError
from loractl_registry import ServingSnapshot
from loractl_registry.priority_classes import PriorityClass

_logger = logging.getLogger(__name__)
_PRIORITIES = {
    PriorityClass.INTERACTIVE: Priority.HIGH,
    PriorityClass.STANDARD: Priority.NORMAL,
    PriorityClass.BATCH: Priority.LOW,
}


@dataclass(frozen=True, slots=True)
class Controls:
    """The parts are used from one event loop only."""

    door: Door
    quotas: Quotas
    admission: AdmissionController
    journal: Journal

    def reserve(self, caller: Caller, adapter: str, amounts: Amounts) -> Reservation | None:
        """Count one request against its tenant's quotas; None for the operator, who has none.

        Raises:
            QuotaExceededError: One of them does not allow it now.
            UnauthorizedError: The tenant was removed since it was let in.
        """
        if caller.tenant is None:
            return None
        try:
            found = self.quotas.check_and_reserve(caller.tenant.name, adapter, tokens=amounts.input_tokens)
        except UnknownTenantError:
            raise UnauthorizedError from None
        if isinstance(found, Refusal):
            raise QuotaExceededError(found)
        return found

    def turn(self, caller: Caller, target: Target, amounts: Amounts, *, deadline_s: float | None) -> Request:
        """Return what is asked of admission."""
        return Request(
            tenant=caller.label,
            adapter=None if target.version is None else target.model,
            estimated_input_tokens=amounts.input_tokens,
            max_output_tokens=amounts.expected_output,
            priority=Priority.NORMAL if caller.tenant is None else _PRIORITIES[caller.tenant.priority],
            deadline_s=deadline_s,
        )

    def numbers(self) -> Snapshot:
        """Return everything that was counted so far."""
        metrics = self.journal.metrics
        held = (adapter.partition("@") for adapter in self.admission.adapters_held)
        metrics.resident((name, number) for name, _, number in held)
        return metrics.snapshot()

    def losses(self) -> str | None:
        """Return what was lost beside the traffic so far, for the operator alone; None if nothing was."""
        dropped = self.journal.metrics.dropped()
        if not dropped:
            return None
        why = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        return f"{sum(dropped.values())} records of requests were dropped since the start ({why}); the log says more"

    def adopt(self, callers: Callers) -> None:
        """Let these ask from now on, each within its limits, and nobody else."""
        for name, reason in callers.refused.items():
            if self.door.callers.refused.get(name) != reason:
                _logger.error("nobody is answered in the name of tenant %s: %s", name, reason)
        gone = self.door.callers.tenants.keys() - callers.tenants.keys()
        self.door.adopt(callers)
        self.quotas.replace(caller.tenant for caller in callers.tenants.values() if caller.tenant is not None)
        for name in gone:
            self.journal.metrics.tenant_removed(name)

    def serves(self, now: ServingSnapshot, before: ServingSnapshot) -> None:
        """Count what serves: drop the series of versions that do not any more, and tell which ones nobody reviewed."""
        metrics = self.journal.metrics
        for ref in {version.ref for version in before.versions} - {version.ref for version in now.versions}:
            metrics.retired(ref.name, str(ref.number))
        metrics.unreviewed((ref.name, str(ref.number)) for ref, terms in now.terms.items() if terms.is_unreviewed)
