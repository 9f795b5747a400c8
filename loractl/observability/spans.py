"""Sending the span of each request to an OpenTelemetry collector, off the path of its answer."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from loractl.observability.tracing import TraceContext

_NAME = "loractl.request"


@dataclass(frozen=True, slots=True)
class Span:
    """What a request did, as a trace shows it.

    Attributes:
        context: Of the span itself.
        parent: Of the span that it is a part of; None at the root.
        started_ns: Nanoseconds since 1970.
    """

    context: TraceContext
    parent: TraceContext | None
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, str | int | float | bool]
    is_error: bool = False


class SpanSender:
    """Hands spans to OpenTelemetry's batching exporter, which drops what it has no room for.

    OpenTelemetry is imported when this is made: without an endpoint nobody needs it.

    Args:
        endpoint: URL of the collector's OTLP over HTTP, such as ``http://localhost:4318/v1/traces``.
        max_waiting: Spans that may wait to be sent.

    Raises:
        ModuleNotFoundError: OpenTelemetry's SDK or its OTLP exporter is not installed.
    """

    def __init__(self, endpoint: str, *, service: str = "loractl", max_waiting: int = 2048) -> None:
        self._api, self._sdk = _import("opentelemetry.trace"), _import("opentelemetry.sdk.trace")
        exporting = _import("opentelemetry.sdk.trace.export")
        otlp = _import("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        self._exporter = otlp.OTLPSpanExporter(endpoint=endpoint)
        self._resource = _import("opentelemetry.sdk.resources").Resource.create({"service.name": service})
        self._batches = exporting.BatchSpanProcessor(
            self._exporter, max_queue_size=max_waiting, max_export_batch_size=min(512, max_waiting)
        )

    def send(self, span: Span) -> None:
        """Let `span` be sent some time soon, if its trace is sampled. Never waits."""
        if not span.context.is_sampled:
            return
        status = self._api.StatusCode.ERROR if span.is_error else self._api.StatusCode.OK
        self._batches.on_end(
            self._sdk.ReadableSpan(
                _NAME,
                context=self._context(span.context, is_remote=False),
                parent=None if span.parent is None else self._context(span.parent, is_remote=True),
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=self._api.SpanKind.SERVER,
                status=self._api.Status(status),
                start_time=span.started_ns,
                end_time=span.ended_ns,
            )
        )

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Send what waits and stop; what is not sent by then is lost."""
        # On a thread of its own, because OpenTelemetry's own time-out is half a minute and cannot be set.
        closing = threading.Thread(target=self._batches.shutdown, daemon=True)
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            self._exporter.shutdown()  # a collector that does not answer is not tried again

    def _context(self, context: TraceContext, *, is_remote: bool) -> object:
        return self._api.SpanContext(
            trace_id=int(context.trace_id, 16),
            span_id=int(context.span_id, 16),
            is_remote=is_remote,
            trace_flags=self._api.TraceFlags(int(context.is_sampled)),
            trace_state=self._api.TraceState.from_header([context.state]),
        )


def _import(name: str) -> Any:
    # Not at the top: the SDK takes as long to import as the rest of the gateway, and few operators have a collector.
    return cast("Any", importlib.import_module(name))
