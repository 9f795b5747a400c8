"""kill -9 under load: what was granted more than a second before the end is still counted after the start."""

import random
import subprocess
import sys
import time

import pytest
from unit.quotas import quota_worker
from unit.quotas.quota_worker import busy_tenant

from loractl.quotas import CounterFile, Quotas

LAST_S = 1.0


def run_and_kill(path, limit, *, after_s):
    """Return when each request was granted, how many were refused, and when the process was killed."""
    command = [sys.executable, quota_worker.__file__, str(path), str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready 0\n", process.stderr.read()
        time.sleep(after_s)
        killed = time.monotonic()
        process.kill()
        lines = process.stdout.read().decode().splitlines()
    said = [line.split() for line in lines if line.count(" ") == 1 and "." in line]
    granted = [float(at) for word, at in said if word == "granted"]
    return granted, len(said) - len(granted), killed


@pytest.mark.parametrize("after_s", [2.2, 3.3])
def test_counters_after_a_kill_are_those_of_a_second_before(tmp_path, after_s):
    path = tmp_path / "quotas.db"

    granted, _, killed = run_and_kill(path, 10**6, after_s=after_s)

    file = CounterFile.open(path)
    quotas = Quotas([busy_tenant(10**6)], saved=file.load())
    file.close()
    requests, day = quotas.standing("acme", "bot")
    counted = requests.limit - requests.remaining
    due = sum(1 for at in granted if at < killed - LAST_S)
    assert due > 50
    assert due <= counted <= len(granted) + 1
    assert 3 * due <= day.limit - day.remaining <= 3 * (len(granted) + 1)


def test_no_request_is_served_beyond_the_quota_by_more_than_the_last_second(tmp_path):
    path, limit, dice = tmp_path / "quotas.db", 600, random.Random(7)
    served = lost = refused = 0
    begun = time.monotonic()

    while not refused and time.monotonic() - begun < 50:  # after a minute the first ones are free again
        granted, refused, killed = run_and_kill(path, limit, after_s=dice.uniform(0.3, 1.9))
        served += len(granted)
        lost += sum(1 for at in granted if at >= killed - LAST_S)

    assert refused
    assert limit <= served <= limit + lost
