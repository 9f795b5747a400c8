"""How a server queues, records and traces what it is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from loractl.settings import Fairness


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """What an operator may choose.

    Attributes:
        fairness: Who goes next while the engine is short.
        queue_timeout_s: Longest wait for a turn.
        records: Whether a record is kept of every request; never of what was asked or answered.
        trace_endpoint: URL of an OpenTelemetry collector; None sends nothing anywhere.
    """

    fairness: Fairness = Fairness.VTC
    queue_timeout_s: float = 60.0
    records: bool = True
    trace_endpoint: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return JSON values that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> TrafficSettings:
        """Read what `to_json` gave; raises TypeError, KeyError or ValueError if it is not that."""
        body = cast("dict[str, Any]", value)
        endpoint = body["trace_endpoint"]
        return cls(
            fairness=Fairness(body["fairness"]),
            queue_timeout_s=float(body["queue_timeout_s"]),
            records=body["records"] is True,
            trace_endpoint=None if endpoint is None else str(endpoint),
        )
