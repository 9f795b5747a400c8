from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import Result, clean_environment
from support.registry import write_adapter, write_base

from loractl.cli import main
from loractl_registry import Ref, Registry, Stage

GOLDENS = Path(__file__).parents[1] / "golden" / "cli"
_SIGNED = re.compile(r'"(statement|decision|head|key_id|public_key)": "[^"]+"')
_API_KEY = re.compile(r'"(?:[0-9a-f]{12}|lora_[0-9a-f]{12}_[0-9a-f]{64})"')
# So are signatures over files, which have no name of their own among the digests.
_SIGNATURE = re.compile(r'("signer": "[0-9a-f]{64}",\s*"is_verified": \w+,\s*"digest": ")sha256:[0-9a-f]{64}')
_SIGNATURES = re.compile(r'("signatures": \[\s*")sha256:[0-9a-f]{64}')
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}(?:Z|\+00:00)")


def pytest_addoption(parser: pytest.Parser) -> None:
    # Another conftest may offer it too.
    with contextlib.suppress(ValueError):
        parser.addoption("--update-goldens", action="store_true", help="rewrite the golden files")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and some adapters on disk."""
    root = tmp_path_factory.mktemp("inputs")
    write_base(root / "base")
    for seed in range(1, 5):
        write_adapter(root / f"adapter-{seed}", seed=seed)
    write_adapter(root / "strange", seed=9, base="nobody/knows")
    return root


@pytest.fixture(scope="session")
def lived_in_home(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Path:
    """A home in which something has happened; never written to."""
    home = tmp_path_factory.mktemp("lived-in") / "home"
    with Registry.open(home) as registry:
        registry.add_base("tiny-moe", str(inputs / "base"), actor="alice", licence="Apache-2.0")
        for name, seed in (("support-bot", 1), ("support-bot", 2), ("support-bot", 3), ("poet", 4)):
            registry.add(name, str(inputs / f"adapter-{seed}"), actor="alice")
        registry.promote(Ref("support-bot", 1), actor="alice", to=Stage.LIVE)
        registry.promote(Ref("support-bot", 2), actor="bob", to=Stage.LIVE, reason="better")
        registry.promote(Ref("support-bot", 3), actor="alice", to=Stage.CANDIDATE)
    return home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    return tmp_path / "home"


@pytest.fixture
def lived_in(home: Path, lived_in_home: Path) -> Path:
    """A home in which something has happened."""
    shutil.copytree(lived_in_home, home)
    return home


@pytest.fixture
def cli(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """Run ``loractl`` in this process, without a terminal."""
    for name, value in clean_environment(home).items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "HF_HUB_OFFLINE", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["loractl", *argv])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main()
        captured = capsys.readouterr()
        return Result(int(code), captured.out, captured.err)

    return run


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path, inputs: Path) -> Callable[[str, str], None]:
    """Compare JSON with the file of that name below tests/golden/cli."""

    def check(name: str, text: str) -> None:
        # A key is another one in every run, and so is everything that it signs.
        text = _SIGNATURES.sub(r"\1<signature>", _SIGNATURE.sub(r"\1<signature>", text))
        text = re.sub(r'"signer": "[0-9a-f]{64}"', '"signer": "<key_id>"', text)
        stable = _SIGNED.sub(r'"\1": "<\1>"', _API_KEY.sub('"<key>"', _TIME.sub("<time>", text)))
        for found, word in ((str(tmp_path), "<tmp>"), (str(inputs), "<inputs>")):
            stable = stable.replace(found, word)
        pretty = json.dumps(json.loads(stable), indent=2, ensure_ascii=False) + "\n"
        file = GOLDENS / f"{name}.json"
        if request.config.getoption("--update-goldens", default=False):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(pretty, encoding="utf-8")
        assert file.exists(), f"no golden {file.name}; write it with --update-goldens"
        assert pretty == file.read_text(encoding="utf-8")

    return check
