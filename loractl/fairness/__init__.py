"""Who goes next: fair admission of requests to one engine that many tenants and adapters share."""

from loractl.fairness.admission import AdmissionController, Grant
from loractl.fairness.errors import FairnessError, QueueFullError, WaitTooLongError
from loractl.fairness.requests import Capacity, Limits, Policy, Priority, Request, Weights

__all__ = [
    "AdmissionController",
    "Capacity",
    "FairnessError",
    "Grant",
    "Limits",
    "Policy",
    "Priority",
    "QueueFullError",
    "Request",
    "WaitTooLongError",
    "Weights",
]
