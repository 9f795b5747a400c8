"""Quotas: how much of each tenant's limits is used, whether the next request fits, and what a client is told."""

from loractl.quotas.answers import refusal_body, refusal_headers, standing_headers
from loractl.quotas.counter_file import CounterFile
from loractl.quotas.errors import CountersUnusableError, QuotaError, UnknownTenantError
from loractl.quotas.limiter import Quotas, Saved
from loractl.quotas.moments import Clocks
from loractl.quotas.reservation import Reservation
from loractl.quotas.saving import INTERVAL_S, CounterSaving
from loractl.quotas.sizes import SizeRefusal, bounded_output, context_of
from loractl.quotas.standing import Gauge, LimitKind, Refusal, Standing

__all__ = [
    "INTERVAL_S",
    "Clocks",
    "CounterFile",
    "CounterSaving",
    "CountersUnusableError",
    "Gauge",
    "LimitKind",
    "QuotaError",
    "Quotas",
    "Refusal",
    "Reservation",
    "Saved",
    "SizeRefusal",
    "Standing",
    "UnknownTenantError",
    "bounded_output",
    "context_of",
    "refusal_body",
    "refusal_headers",
    "standing_headers",
]
