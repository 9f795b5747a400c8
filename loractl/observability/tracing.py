"""The W3C trace context of a request: read strictly, passed on, or begun."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
_VERSION_0 = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# A later version may say more behind what version 0 says; what it says there is none of our business (section 4.1).
_LATER = re.compile(r"(?!00|ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[ -~]*)?")
_SAMPLED = 1
_KEY = r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER = re.compile(rf"(?:{_KEY})=[!-+\--<>-~ ]{{0,255}}[!-+\--<>-~]")
_MAX_MEMBERS = 32
_MAX_STATE_CHARS = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a request stands in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits, not all 0.
        span_id: 16 of them: the span that what comes next is a child of.
        is_sampled: Whether whoever began the trace records it.
        state: The ``tracestate`` as it goes on; empty for none.
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""

    def child(self, random_hex: Callable[[int], str]) -> TraceContext:
        """Return the context of a new span within the same trace.

        Args:
            random_hex: Returns twice as many hexadecimal digits as the bytes that it is asked for, such as
                `secrets.token_hex`.
        """
        return replace(self, span_id=_not_zero(random_hex, 8))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that hand the context on."""
        flags = _SAMPLED if self.is_sampled else 0
        parent = (TRACEPARENT, f"00-{self.trace_id}-{self.span_id}-{flags:02x}".encode())
        return [parent, (TRACESTATE, self.state.encode())] if self.state else [parent]


def begin_trace(random_hex: Callable[[int], str], *, is_sampled: bool) -> TraceContext:
    """Return the context of the first span of a new trace."""
    return TraceContext(_not_zero(random_hex, 16), _not_zero(random_hex, 8), is_sampled)


def trace_context_of(headers: Sequence[tuple[bytes, bytes]]) -> TraceContext | None:
    """Return the context that a client sent, or None if it sent none, more than one, or one that breaks a rule.

    A ``tracestate`` that breaks a rule is dropped, and the ``traceparent`` beside it holds (W3C Trace Context, 4.3).
    """
    parents = [value for name, value in headers if name.lower() == TRACEPARENT]
    if len(parents) != 1:
        return None
    text = parents[0].strip(b" \t").decode("latin-1")
    found = _VERSION_0.fullmatch(text) or _LATER.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    states = [value for name, value in headers if name.lower() == TRACESTATE]
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _state_of(states))


def _state_of(values: Sequence[bytes]) -> str:
    """Return several headers as one list of members, or nothing if any of them breaks a rule."""
    text = b",".join(values).decode("latin-1")
    if len(text) > 2 * _MAX_STATE_CHARS:
        return ""
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    keys = [member.partition("=")[0] for member in members]
    is_valid = len(members) <= _MAX_MEMBERS and len(set(keys)) == len(keys) and all(map(_MEMBER.fullmatch, members))
    state = ",".join(members)
    return state if is_valid and len(state) <= _MAX_STATE_CHARS else ""


def _not_zero(random_hex: Callable[[int], str], size_bytes: int) -> str:
    while True:
        found = random_hex(size_bytes)
        if found.strip("0"):
            return found
