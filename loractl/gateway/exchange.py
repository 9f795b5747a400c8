"""One request to generate, from its arrival to its end: the one place where its numbers come together."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol

from loractl.fairness import Grant
from loractl.gateway.asgi import Headers
from loractl.gateway.bodies import ClientGoneError
from loractl.gateway.callers import Caller
from loractl.gateway.errors import GatewayError
from loractl.gateway.table import Target
from loractl.observability.definitions import BASE, UNKNOWN
from loractl.observability.metrics import Metrics, Running, Timings
from loractl.observability.outcomes import Outcome
from loractl.observability.record import RequestRecord
from loractl.observability.series import LabelSet
from loractl.observability.spans import Span
from loractl.observability.tracing import TraceContext, begin_trace, trace_context_of
from loractl.quotas import Reservation, standing_headers
from loractl_registry import Base, utc_now

_NOTE_EVERY_S = 0.25  # of one answer; noting each token by itself costs as much as all else that is done for it
_NS = 10**9


class RecordSink(Protocol):
    """Where records of requests go; `RecordWriter` is one."""

    def put(self, record: RequestRecord) -> bool:
        """Let `record` be written some time soon. Never waits."""
        ...


class SpanSink(Protocol):
    """Where spans go; `SpanSender` is one."""

    def send(self, span: Span) -> None:
        """Let `span` be sent some time soon. Never waits."""
        ...


@dataclass(frozen=True, slots=True)
class Journal:
    """Where everything that happens to requests is written down."""

    metrics: Metrics
    records: RecordSink | None = None
    spans: SpanSink | None = None
    clock: Callable[[], datetime] = utc_now

    def open(self, request_id: str, headers: Headers) -> Exchange:
        """Begin to write about one request."""
        return Exchange(self, request_id, headers)


class Exchange:
    """Counts one request exactly once, however it ends; a context that ends with it.

    Attributes:
        id: What ``x-loractl-request-id`` says.
        input_tokens, output_tokens: What the engine has counted, or what was seen of it until it has.
        outcome: How it ended, as far as that is known.
    """

    def __init__(self, journal: Journal, request_id: str, headers: Headers) -> None:
        self._journal, self.id = journal, request_id
        self._arrived, self._at = journal.metrics.now(), journal.clock()
        self._parent = trace_context_of(headers) if journal.spans is not None else None
        self._own = self._context() if journal.spans is not None else None
        self._labels = LabelSet(UNKNOWN, "", UNKNOWN)
        self._target: Target | None = None
        self._base: Base | None = None
        self._running: Running | None = None
        self._grant: Grant | None = None
        self._reservation: Reservation | None = None
        self._is_counted = False
        self._left: list[float] = []
        self._note_at = -math.inf
        self.input_tokens = self.output_tokens = 0
        self.outcome: Outcome | None = None

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GatewayError):
            self.outcome = error.outcome
        elif error is not None and self.outcome is None:
            # A server that cancels a request does so because nobody waits for it any more.
            is_fault = isinstance(error, Exception) and not isinstance(error, ClientGoneError)
            self.outcome = Outcome.INTERNAL if is_fault else Outcome.DISCONNECTED
        self._close(self.outcome or Outcome.OK)

    @property
    def trace_headers(self) -> Headers:
        """The headers that hand its trace on to the engine; none while no trace is sent anywhere."""
        return () if self._own is None else self._own.headers()

    @property
    def answer_headers(self) -> Headers:
        """The headers that tell the client what is left of its quotas."""
        return () if self._reservation is None else standing_headers(self._reservation.standing())

    def came_from(self, caller: Caller) -> None:
        """Note who asks."""
        self._labels = self._labels._replace(tenant=caller.label)

    def goes_to(self, target: Target, base: Base) -> None:
        """Note who answers; from now on it waits for its turn."""
        self._target, self._base = target, base
        version = target.version
        adapter, number = (BASE, "") if version is None else (version.ref.name, str(version.ref.number))
        self._labels = LabelSet(adapter, number, self._labels.tenant)
        self._running = self._journal.metrics.begin(self._labels, arrived=self._arrived)

    def reserved(self, reservation: Reservation | None) -> None:
        """Note what it is counted against."""
        self._reservation = reservation

    @contextmanager
    def granted(self, grant: Grant, *, input_tokens: int) -> Generator[None]:
        """Note that the engine gets it now, with about so many tokens of prompt, for as long as the context lasts."""
        self._grant, self.input_tokens = grant, input_tokens
        if self._running is not None:
            self._running.admitted(is_cold=grant.is_cold)
        try:
            yield
        finally:
            self._note()

    def token(self) -> None:
        """Take in that a token leaves now; the first is noted at once, and the rest as often as `_NOTE_EVERY_S`."""
        now = self._journal.metrics.now()
        self._left.append(now)
        self.output_tokens += 1
        if now >= self._note_at:
            self._note()
            self._note_at = now + _NOTE_EVERY_S

    def _note(self) -> None:
        """Let metrics, fairness and quotas know of the tokens that have left since the last time."""
        if not self._left:
            return
        left, self._left = self._left, []
        if self._running is not None:
            self._running.tokens(left)
        if self._grant is not None:
            self._grant.charge(output_tokens=len(left))
        if self._reservation is not None:
            self._reservation.report(self.input_tokens + self.output_tokens)

    def counted(self, input_tokens: int, output_tokens: int) -> None:
        """Note what the engine has counted, which replaces what was seen of it."""
        self._note()
        if self._grant is not None:
            self._grant.charge(input_tokens=input_tokens, output_tokens=output_tokens - self.output_tokens)
        self.input_tokens, self.output_tokens, self._is_counted = input_tokens, output_tokens, True

    @property
    def is_counted(self) -> bool:
        """Whether the engine has said how many tokens there were."""
        return self._is_counted

    def _close(self, outcome: Outcome) -> None:
        journal = self._journal
        if self._reservation is not None:
            used = self.input_tokens + self.output_tokens if self._grant is not None else 0
            self._reservation.settle(used)
        tokens = (self.input_tokens, self.output_tokens) if self._grant is not None else (0, 0)
        if self._running is None:
            journal.metrics.turned_away(self._labels, outcome)
            timings = Timings(0.0, None, 0.0, max(0.0, journal.metrics.now() - self._arrived))
        else:
            timings = self._running.end(outcome, input_tokens=tokens[0], output_tokens=tokens[1])
        # Whoever has no key could otherwise push everybody else's records out.
        if journal.records is not None and outcome is not Outcome.REFUSED_KEY:
            journal.records.put(self._record(outcome, timings, *tokens))
        if journal.spans is not None and self._own is not None:
            journal.spans.send(self._span(self._own, outcome, timings, *tokens))

    def _record(self, outcome: Outcome, timings: Timings, input_tokens: int, output_tokens: int) -> RequestRecord:
        version = None if self._target is None else self._target.version
        return RequestRecord(
            id=self.id,
            at=self._at,
            tenant=self._labels.tenant,
            adapter=self._labels.adapter,
            version=None if version is None else version.ref.number,
            outcome=outcome,
            adapter_digest=None if version is None else version.digest,
            statement_digest=None
            if self._target is None or self._target.terms is None
            else self._target.terms.statement,
            base_digest=None if self._base is None else self._base.digest,
            is_cold=self._grant is not None and self._grant.is_cold,
            queue_s=timings.queue_s,
            first_token_s=timings.first_token_s,
            busy_s=timings.busy_s,
            total_s=timings.total_s,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    def _span(self, own: TraceContext, outcome: Outcome, timings: Timings, *tokens: int) -> Span:
        started = int(self._at.timestamp() * _NS)
        attributes = {
            "loractl.request_id": self.id,
            "loractl.tenant": self._labels.tenant,
            "loractl.adapter": self._labels.adapter,
            "loractl.version": self._labels.version,
            "loractl.outcome": outcome.value,
            "loractl.input_tokens": tokens[0],
            "loractl.output_tokens": tokens[1],
            "loractl.queue_s": timings.queue_s,
        }
        is_error = outcome is not Outcome.OK
        return Span(own, self._parent, started, started + int(timings.total_s * _NS), attributes, is_error=is_error)

    def _context(self) -> TraceContext:
        if self._parent is not None:
            return self._parent.child(secrets.token_hex)
        return begin_trace(secrets.token_hex, is_sampled=True)
