"""What the trust component exports, and what stays out of everything else."""

import subprocess
import sys

from loractl_registry import trust
from loractl_registry.errors import RegistryError
from loractl_registry.trust import errors

HEAVY = ("cryptography", "securesystemslib", "rfc8785", "loractl_registry.trust")


def test_every_exported_name_is_there():
    for name in trust.__all__:
        assert getattr(trust, name) is not None


def test_registry_and_command_line_do_not_import_it():
    probe = (
        "import sys, loractl_registry, loractl_registry.registry, loractl.cli;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_codes_are_stable_and_each_error_has_its_own():
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RegistryError)]
    own = [each for each in found if each.__module__ == errors.__name__]

    assert len(own) > 25
    assert len({each.code for each in own}) == len(own)
    assert all(each.code.startswith("trust.") for each in own)
