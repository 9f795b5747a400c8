import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loractl.demo import Claim

CLONE = Path(__file__).resolve().parents[2]
ADAPTERS = CLONE / "examples" / "demo" / "adapters"
TIMEOUT_S = 420

pytestmark = [pytest.mark.engine, pytest.mark.timeout(TIMEOUT_S + 60)]


def _demo(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the demo as a user with an empty home does."""
    (tmp_path / "user").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LORACTL_", "VLLM_", "HF_"))}
    environment = kept | {
        "HOME": str(tmp_path / "user"),
        "TMPDIR": str(tmp_path),
        "LORACTL_HOME": str(tmp_path / "own"),
    }
    return subprocess.run(
        [sys.executable, "-m", "loractl", "demo", *flags],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_demo_observes_every_claim(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--json")

    assert done.returncode == 0, done.stderr[-6000:]
    report = json.loads(done.stdout)
    assert report["is_complete"] is True
    assert [one["claim"] for one in report["observations"] if one["is_seen"]] == [claim.value for claim in Claim]
    assert not (tmp_path / "own").exists()
    assert not list(tmp_path.glob("loractl-demo-*"))


def test_demo_with_swapped_adapters_fails_and_names_what_was_not_observed(tmp_path: Path) -> None:
    sabotaged = tmp_path / "adapters"
    shutil.copytree(ADAPTERS, sabotaged)
    shutil.rmtree(sabotaged / "pirate")
    shutil.copytree(sabotaged / "lawyer", sabotaged / "pirate")
    shutil.rmtree(sabotaged / "lawyer")
    shutil.copytree(ADAPTERS / "pirate", sabotaged / "lawyer")

    done = _demo(tmp_path, "--adapters", str(sabotaged))

    assert done.returncode == 1, done.stdout[-6000:]
    verdict = done.stdout.partition("claims were not observed")[2]
    assert Claim.PIRATE_SPEAKS.text in " ".join(verdict.split())
    assert Claim.SHAKESPEARE_SPEAKS.text not in " ".join(verdict.split())
    assert Claim.STOPPED.text not in " ".join(verdict.split())
