"""What the engine's output means: how far its start is, and what loractl itself logs there."""

from __future__ import annotations

import re
from dataclasses import dataclass

STARTING = "starting vLLM"
# In the order in which vLLM 0.32 reaches them. A line of a later vLLM that matches none costs a step of the display.
_STEPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Resolved architecture|non-default args"), "reading the configuration"),
    (re.compile(r"Initializing a V1 LLM engine|Starting to load model"), "loading the weights"),
    (re.compile(r"Loading (?:weights|model weights) took|Model loading took"), "preparing the adapter slots"),
    (re.compile(r"Available KV cache memory|KV cache size"), "reserving the KV cache"),
    (re.compile(r"Capturing CUDA graphs|torch\.compile takes|Warming up model"), "warming up"),
    (re.compile(r"init engine .* took|Supported tasks"), "starting the API server"),
    (re.compile(r"Waiting for application startup"), "admitting the approved adapters"),
)
# vLLM puts the name and number of the process before every line.
_OWN = re.compile(r"^(?:\([\w@. -]+ pid=\d+\)\s*)?loractl (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)$")


@dataclass(frozen=True, slots=True)
class OwnLine:
    """A line that loractl logged inside the engine's process: what is refused, admitted, evicted."""

    level: str
    message: str


def step_of(line: str) -> str | None:
    """Return the step of the start that `line` begins, or None."""
    return next((label for pattern, label in _STEPS if pattern.search(line)), None)


def own_line(line: str) -> OwnLine | None:
    """Return what loractl itself says in `line`, or None if the engine says it."""
    found = _OWN.match(line)
    return OwnLine(found[1], found[2]) if found else None
