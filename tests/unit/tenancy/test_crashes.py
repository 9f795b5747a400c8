"""kill -9 in the middle of a change of tenants: it happened as a whole or not at all, and the next one works."""

import os
import signal
import subprocess
import sys

import pytest

from loractl_registry import Registry
from loractl_registry._faults import FAULT_VARIABLE
from loractl_registry.tenancy import Limits, pepper_path

WORKER = """
import sys
from pathlib import Path
from loractl_registry import Registry
with Registry.open(Path(sys.argv[1])) as registry:
    eval(sys.argv[2], {"tenancy": registry.tenancy})
"""
CHANGES = [
    pytest.param("tenancy.add('new', actor='ada', adapters=['bot'])", id="add"),
    pytest.param("tenancy.change('acme', actor='ada', adapters=['*'], limits={'concurrent': None})", id="change"),
    pytest.param("tenancy.remove('acme', actor='ada', reason='x')", id="remove"),
    pytest.param("tenancy.create_key('acme', actor='ada')", id="create-key"),
    pytest.param("tenancy.revoke_key(tenancy.keys()[0].prefix, actor='ada', reason='x')", id="revoke-key"),
]


def run(home, change, *, fault=""):
    environment = os.environ | ({FAULT_VARIABLE: fault} if fault else {})
    return subprocess.run([sys.executable, "-c", WORKER, str(home), change], env=environment, timeout=60).returncode


def state(home):
    with Registry.open(home) as registry:
        assert registry.identities.verify().problems == ()
        assert registry.fsck(repair=False, actor="ada").is_clean
        return registry.tenancy.snapshot(), registry.history()


@pytest.mark.parametrize("change", CHANGES)
def test_change_killed_before_its_commit_never_happened_and_can_be_made_again(tmp_path, change):
    with Registry.open(tmp_path) as registry:
        registry.tenancy.add("acme", actor="ada", adapters=["bot"], limits=Limits(concurrent=1))
        registry.tenancy.create_key("acme", actor="ada")
    before = state(tmp_path)

    assert run(tmp_path, change, fault="tenancy.before_commit") == -signal.SIGKILL
    assert state(tmp_path) == before

    assert run(tmp_path, change) == 0
    assert state(tmp_path) != before


def test_pepper_killed_half_written_is_no_pepper(tmp_path):
    add = "tenancy.add('acme', actor='ada', adapters=['bot'])"

    assert run(tmp_path, add, fault="pepper.before_rename") == -signal.SIGKILL
    assert not pepper_path(tmp_path).exists()

    assert run(tmp_path, add) == 0
    assert state(tmp_path)[0].tenants.keys() == {"acme"}
