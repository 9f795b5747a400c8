"""Named points at which a crash test can kill the process."""

from __future__ import annotations

import os
import signal

FAULT_VARIABLE = "LORACTL_FAULT_AT"


def reach(point: str) -> None:
    """Kill this process, as a power cut would, if the environment names `point`; else do nothing."""
    if os.environ.get(FAULT_VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGKILL)
