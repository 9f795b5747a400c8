"""What a client is told about its quotas: headers, and the error of a refusal, as OpenAI's clients expect them."""

from __future__ import annotations

import math

from loractl.quotas.standing import LimitKind, Refusal, Standing

_SUFFIX = {
    LimitKind.REQUESTS: "requests",
    LimitKind.TOKENS: "tokens",
    LimitKind.CONCURRENT: "concurrent",
    LimitKind.DAY: "tokens-day",
}
_HEADERS = {
    kind: tuple(f"x-ratelimit-{what}-{suffix}".encode() for what in ("limit", "remaining", "reset"))
    for kind, suffix in _SUFFIX.items()
}
_UNIT = {
    LimitKind.REQUESTS: "requests per minute",
    LimitKind.TOKENS: "tokens per minute",
    LimitKind.CONCURRENT: "concurrent requests",
    LimitKind.DAY: "tokens per day",
}
_KIND = {
    LimitKind.REQUESTS: "requests",
    LimitKind.TOKENS: "tokens",
    LimitKind.CONCURRENT: "requests",
    LimitKind.DAY: "insufficient_quota",
}
_EXHAUSTED, _LIMITED = "insufficient_quota", "rate_limit_exceeded"


def standing_headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """Return ``x-ratelimit-limit-*``, ``-remaining-*`` and ``-reset-*`` for each limit that is set."""
    headers: list[tuple[bytes, bytes]] = []
    for gauge in standing:
        values = b"%d" % gauge.limit, b"%d" % gauge.remaining, duration_text(gauge.reset_s).encode()
        headers += zip(_HEADERS[gauge.kind], values, strict=True)
    return headers


def refusal_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """Return the headers of a refusal: those of its standing, when to come back, and whether to try again at all.

    OpenAI's clients obey ``x-should-retry``: they are to wait for a window, not for tomorrow, and not for nothing.
    """
    headers = standing_headers(refusal.standing)
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(_whole_seconds(refusal.retry_after_s)).encode()))
    may_retry = refusal.retry_after_s is not None and refusal.limit is not LimitKind.DAY
    headers.append((b"x-should-retry", b"true" if may_retry else b"false"))
    return headers


def refusal_body(refusal: Refusal) -> dict[str, object]:
    """Return the body of a refusal, in OpenAI's shape."""
    where = "this key's tenant" if refusal.adapter is None else f"this key's tenant on {refusal.adapter}"
    unit = _UNIT[refusal.limit]
    used_up = f"{refusal.remaining} of {refusal.allowed} {unit} are left for {where}, and this needs {refusal.asked}"
    if refusal.retry_after_s is None:
        way_out = "send a smaller request, or ask the operator for a higher limit"
    else:
        way_out = f"try again in {duration_text(_whole_seconds(refusal.retry_after_s))}"
    error = {
        "message": f"{used_up}; {way_out}",
        "type": _KIND[refusal.limit],
        "param": None,
        "code": _EXHAUSTED if refusal.limit is LimitKind.DAY else _LIMITED,
    }
    return {"error": error}


def duration_text(seconds: float) -> str:
    """Write a duration as OpenAI's headers do: ``20ms``, ``7s``, ``6m0s``, ``2h5m0s``; never shorter than it is."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))
