"""The ASGI layer in front of the engine: which names answer, and from which exact version."""

from loractl.gateway.app import Gateway, GatewaySettings
from loractl.gateway.bodies import BodyLimits
from loractl.gateway.reconciler import Reconciler, ReconcilerTimes, ServedRegistry
from loractl.gateway.table import ServingTable, Target

__all__ = [
    "BodyLimits",
    "Gateway",
    "GatewaySettings",
    "Reconciler",
    "ReconcilerTimes",
    "ServedRegistry",
    "ServingTable",
    "Target",
]
