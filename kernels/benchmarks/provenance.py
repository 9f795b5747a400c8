"""What a row says of where it comes from: machine, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def provenance(run_id: str) -> dict[str, str]:
    """Return the columns that every row has; what cannot be found out is "unknown".

    The commit is that of the checkout, or `LORACTL_COMMIT` where there is none.
    """
    gpu, _, driver = _first_line("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").partition(
        ","
    )
    versions = {name: _version(name) for name in ("torch", "triton", "vllm")}
    commit = os.environ.get("LORACTL_COMMIT") or _first_line("git", "-C", str(ROOT), "rev-parse", "HEAD")
    facts = {"gpu": gpu.strip(), "driver": driver.strip(), **versions, "commit": commit, "run_id": run_id}
    return {key: value or "unknown" for key, value in facts.items()}


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.splitlines() or [""])[0] if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # unpacked on PYTHONPATH, not installed
        return str(getattr(sys.modules.get(package), "__version__", ""))
