"""Spans reach a collector as OTLP, and OpenTelemetry is loaded for nobody who has none."""

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from loractl.observability.spans import Span, SpanSender
from loractl.observability.tracing import TraceContext

PARENT = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, "a=1")
OWN = TraceContext(PARENT.trace_id, "1111111111111111", True, "a=1")


@pytest.fixture
def collector():
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def plain_bodies(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")


def spans_of(bodies):
    return [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def threads_of_sender():
    return [one for one in threading.enumerate() if one.name.startswith("Otel")]


def test_span_arrives_with_its_ids_times_and_attributes(collector):
    endpoint, received = collector
    sender = SpanSender(endpoint)
    sender.send(Span(OWN, PARENT, 1_000, 3_000, {"loractl.adapter": "bot", "loractl.output_tokens": 7}, is_error=True))
    sender.close()

    (span,) = spans_of(received)
    assert (span.trace_id.hex(), span.span_id.hex()) == (OWN.trace_id, OWN.span_id)
    assert span.parent_span_id.hex() == PARENT.span_id
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000, 3_000)
    assert span.trace_state == "a=1"
    assert {each.key for each in span.attributes} == {"loractl.adapter", "loractl.output_tokens"}
    assert span.status.code == span.status.STATUS_CODE_ERROR


def test_trace_that_is_not_sampled_is_not_sent(collector):
    endpoint, received = collector
    sender = SpanSender(endpoint)
    sender.send(Span(TraceContext(OWN.trace_id, OWN.span_id, False), None, 1, 2, {}))
    sender.close()

    assert spans_of(received) == []


def test_collector_that_is_down_makes_nobody_wait():
    sender = SpanSender("http://127.0.0.1:9/v1/traces", max_waiting=8)
    begun = time.perf_counter()
    for _ in range(100):
        sender.send(Span(OWN, None, 1, 2, {}))
    sender.close(timeout_s=0.1)

    assert time.perf_counter() - begun < 2.0
    while (senders := threads_of_sender()) and time.perf_counter() - begun < 10:
        senders[0].join(0.1)
    assert not senders


def test_opentelemetry_is_not_imported_without_an_endpoint():
    probe = "import sys, loractl.observability.spans; sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"

    assert subprocess.run([sys.executable, "-c", probe]).returncode == 0
