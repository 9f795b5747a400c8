"""What the installed vLLM says about itself, read from its source: importing its server takes half a minute."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "get", "PROPFIND")


def _entrypoints() -> Path:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "entrypoints"


def vllm_routes() -> dict[str, set[str]]:
    """Collect path -> methods from the source of every router in vLLM, also of those that are off by default.

    Reading the source takes a second; importing the server takes half a minute and hides what a flag would add.
    """
    found: dict[str, set[str]] = {}
    for file in _entrypoints().rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            path = node.args[0]
            if not (isinstance(path, ast.Constant) and isinstance(path.value, str) and path.value.startswith("/")):
                continue
            verb = node.func.attr
            if verb in ("get", "post", "put", "patch", "delete", "head", "options", "websocket"):
                found.setdefault(path.value, set()).add(verb.upper())
            elif verb in ("route", "api_route", "add_api_route", "add_route", "mount"):
                found.setdefault(path.value, set()).update(METHODS)
    return found


def vllm_fields(file: str, name: str) -> set[str]:
    """Return the fields of one of vLLM's request classes."""
    source = _entrypoints() / "openai" / file
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id[0] != "_"
            }
    raise AssertionError(f"vLLM has no {name} any more")
