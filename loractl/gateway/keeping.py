"""What outlives a request: counters of quotas, records and spans, each written beside the traffic."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from loractl.observability.records import RecordWriter
from loractl.observability.spans import SpanSender
from loractl.quotas import CounterSaving, Quotas


@dataclass(frozen=True, slots=True)
class Keeping:
    """Starts and stops with the server.

    Attributes:
        saving: Keeps the counters of `quotas` across a restart.
        records: None where no record is kept.
        spans: None where no trace is sent.
    """

    quotas: Quotas = field(default_factory=Quotas)
    saving: CounterSaving | None = None
    records: RecordWriter | None = None
    spans: SpanSender | None = None

    def start(self) -> None:
        """Begin to write; to be called on the event loop that serves."""
        if self.saving is not None:
            self.saving.start()
        if self.records is not None:
            self.records.start()

    async def stop(self) -> None:
        """Write what waits, then stop."""
        if self.saving is not None:
            await self.saving.stop()
        if self.records is not None:
            await asyncio.to_thread(self.records.close)
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)

    def trouble(self) -> str | None:
        """Return why counters are not kept, or None."""
        return None if self.saving is None else self.saving.trouble()
