"""What verifying file signatures adds at serve start to hashing: our verification, and model-signing's.

Makes N adapters of a size in a temporary folder, signs each, and prints one JSON line a size. Every number is the
median of the rounds, in seconds for all adapters together, each round in a process of its own. What `serve` has loaded
anyway by then, the trust component, is imported before the clock starts; model-signing is not.

    .venv/bin/python benchmarks/signatures.py --adapters 100 --megabytes 1 8 64
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from loractl_registry.hashing import hash_files
from loractl_registry.records import Manifest
from loractl_registry.signatures import sign_files
from loractl_registry.trust import create_key

NAMES = ("README.md", "adapter_config.json", "adapter_model.safetensors")
WAYS = ("hashing", "ours", "library")

PROBE = """
import sys, time
from pathlib import Path
from loractl_registry.hashing import hash_files
from loractl_registry.records import Manifest
way, root = sys.argv[1], Path(sys.argv[2])
names = ("README.md", "adapter_config.json", "adapter_model.safetensors")
from loractl_registry.trust import load_public_key
keys = [load_public_key(root / "key.pub")]
folders = sorted(path for path in root.iterdir() if path.is_dir())
started = time.perf_counter()
if way == "library":
    from model_signing import verifying
    config = verifying.Config().use_elliptic_key_verifier(public_key=root / "key.pub")
if way == "ours":
    from loractl_registry.signatures import verify_files
for folder in folders:
    manifest = Manifest(hash_files(folder, names))
    signature = folder.with_suffix(".sig")
    if way == "ours":
        verify_files(folder, manifest, signature.read_bytes(), keys)
    if way == "library":
        config.verify(folder, signature)
print(time.perf_counter() - started)
"""


def prepare(root: Path, adapters: int, size_bytes: int) -> None:
    """Write and sign the adapters."""
    key = create_key()
    (root / "key.pub").write_text(key.public.pem)
    for number in range(adapters):
        folder = root / f"{number:064x}"
        folder.mkdir()
        (folder / NAMES[0]).write_text("# An adapter\n" * 100)
        (folder / NAMES[1]).write_text('{"r": 16}\n' * 60)
        (folder / NAMES[2]).write_bytes(os.urandom(size_bytes))
        folder.with_suffix(".sig").write_bytes(sign_files(folder, Manifest(hash_files(folder, NAMES)), key))


def measure(root: Path, way: str) -> float:
    """Return the seconds that one process takes."""
    done = subprocess.run([sys.executable, "-c", PROBE, way, str(root)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory(prefix="loractl-bench-") as name:
            root = Path(name)
            prepare(root, arguments.adapters, int(megabytes * 2**20))
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    taken[way].append(measure(root, way))
        medians = {way: statistics.median(times) for way, times in taken.items()}
        added = {way: medians[way] / medians["hashing"] - 1 for way in WAYS if way != "hashing"}
        row = {"bench": "signatures", "adapters": arguments.adapters, "megabytes": megabytes}
        seconds = {f"{way}_s": round(value, 4) for way, value in medians.items()}
        percent = {f"{way}_added_percent": round(value * 100, 1) for way, value in added.items()}
        print(json.dumps({**row, **seconds, **percent}), flush=True)


if __name__ == "__main__":
    main()
