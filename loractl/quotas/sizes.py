"""How long a prompt and its answer may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loractl_registry.tenancy import Tenant


@dataclass(frozen=True, slots=True)
class SizeRefusal:
    """A request that is longer than its tenant may send.

    Attributes:
        limit: ``max_context`` or ``max_output``.
    """

    limit: str
    allowed: int
    asked: int


def context_of(tenant: Tenant, adapter: str) -> int | None:
    """Return the most tokens that one prompt and its answer may have together, None for no bound."""
    return min(_limits(tenant, adapter, "max_context"), default=None)


def bounded_output(tenant: Tenant, adapter: str, *, input_tokens: int, asked: int | None) -> int | SizeRefusal | None:
    """Return the most tokens that the answer may have, None for no bound, or why the request is refused.

    Args:
        tenant: Who asks.
        adapter: Whose limits hold beside the tenant's own; the lower one counts.
        input_tokens: Length of the prompt.
        asked: The request's own bound on the answer; without one it gets what there is.
    """
    output = min(_limits(tenant, adapter, "max_output"), default=None)
    if output is not None and asked is not None and asked > output:
        return SizeRefusal("max_output", output, asked)
    context = context_of(tenant, adapter)
    if context is not None and input_tokens + (1 if asked is None else asked) > context:
        return SizeRefusal("max_context", context, input_tokens + (1 if asked is None else asked))
    left = None if context is None else context - input_tokens
    return min((bound for bound in (asked, output, left) if bound is not None), default=None)


def _limits(tenant: Tenant, adapter: str, name: str) -> Iterator[int]:
    for limits in (tenant.limits, tenant.adapter_limits.get(adapter)):
        value: int | None = getattr(limits, name, None)
        if value is not None:
            yield value
