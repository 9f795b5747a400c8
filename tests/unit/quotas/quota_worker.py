"""A process that lets requests in as fast as its quotas allow, and says each one before it goes on."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from loractl.quotas import CounterFile, CounterSaving, Quotas, Reservation
from loractl_registry.tenancy import Limits, Tenant


def busy_tenant(limit):
    limits = Limits(requests_per_minute=limit, tokens_per_day=limit * 100)
    return Tenant("acme", datetime(2026, 1, 1, tzinfo=UTC), "ada", adapters=("*",), limits=limits)


async def work(path, limit):
    file = CounterFile.open(path)
    quotas = Quotas([busy_tenant(limit)], saved=file.load())
    saving = CounterSaving(quotas, file)
    saving.start()
    clock = asyncio.get_running_loop().time
    os.write(1, b"ready 0\n")
    while True:
        answer = quotas.check_and_reserve("acme", "bot", tokens=1)
        word = "granted" if isinstance(answer, Reservation) else "refused"
        if isinstance(answer, Reservation):
            # Of every second request the end is never seen: its tokens count as they are reported.
            answer.report(3) if answer.standing()[0].remaining % 2 else answer.settle(3)
        os.write(1, f"{word} {clock():.6f}\n".encode())
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
