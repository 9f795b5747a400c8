"""A trace context is read by the letter of W3C Trace Context, or not at all."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loractl.observability.tracing import TraceContext, begin_trace, trace_context_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def read(parent, *states):
    return trace_context_of([(b"traceparent", parent.encode("latin-1")), *((b"tracestate", each) for each in states)])


@pytest.mark.parametrize(
    ("parent", "is_sampled"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f" {PARENT}\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_valid_context_is_read(parent, is_sampled):
    assert read(parent) == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-extra",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}x-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00_{TRACE}_{SPAN}_01",
        f"01-{TRACE}-{SPAN}-01.x",
        f"0-{TRACE}-{SPAN}-01",
        f"{PARENT}\n",
        f"00-{TRACE}-{SPAN}-\xb2\xb3",
    ],
)
def test_context_that_breaks_a_rule_is_none(parent):
    assert read(parent) is None


def test_two_contexts_are_none():
    assert trace_context_of([(b"traceparent", PARENT.encode())] * 2) is None


def test_no_context_is_none():
    assert trace_context_of([(b"tracestate", b"a=1")]) is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([b"a=1"], "a=1"),
        ([b"a=1 , b=2"], "a=1,b=2"),
        ([b"a=1", b"tenant@vendor=x;y:z"], "a=1,tenant@vendor=x;y:z"),
        ([b"a=1,,b=2"], "a=1,b=2"),
        ([b"a=1,a=2"], ""),
        ([b"A=1"], ""),
        ([b"a"], ""),
        ([b"a="], ""),
        ([b"a=b=c"], ""),
        ([b"a=\xff"], ""),
        ([b"a=1\r\nx: y"], ""),
        ([b",".join(b"k%d=1" % i for i in range(32))], ",".join(f"k{i}=1" for i in range(32))),
        ([b",".join(b"k%d=1" % i for i in range(33))], ""),
        ([b",".join(b"k%d=%s" % (i, b"x" * 200) for i in range(3))], ""),
    ],
)
def test_state_is_passed_on_whole_or_not_at_all(states, expected):
    assert read(PARENT, *states).state == expected


@pytest.mark.parametrize("state", ["", "a=1,b=2"])
@pytest.mark.parametrize("is_sampled", [False, True])
def test_headers_are_read_back_as_they_were_written(state, is_sampled):
    context = TraceContext(TRACE, SPAN, is_sampled, state)

    assert trace_context_of(context.headers()) == context


def test_child_stays_in_its_trace():
    parent = read(PARENT, b"a=1")
    child = parent.child(secrets.token_hex)

    assert (child.trace_id, child.is_sampled, child.state) == (TRACE, True, "a=1")
    assert child.span_id != SPAN
    assert trace_context_of(child.headers()) == child


def test_new_trace_has_no_id_of_zeroes():
    drawn = iter(["0" * 32, "1" * 32, "0" * 16, "2" * 16])

    assert begin_trace(lambda _: next(drawn), is_sampled=False) == TraceContext("1" * 32, "2" * 16, False)


@settings(deadline=None)
@given(parent=st.binary(max_size=80), state=st.binary(max_size=80))
def test_no_bytes_raise_and_what_is_passed_on_is_printable(parent, state):
    found = trace_context_of([(b"TraceParent", parent), (b"TraceState", state)])

    assert found is None or all(value.isascii() and value.decode().isprintable() for _, value in found.headers())


@settings(deadline=None)
@given(state=st.binary(max_size=80))
def test_state_never_carries_what_could_end_a_header(state):
    found = read(PARENT, state)

    assert not set(found.state) & set("\r\n\0")
