"""The files of the page, by the path that they are served under, with the headers that hold them in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypeAlias

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

# Nothing from elsewhere, nothing inline, nobody around it, and no way from a string to markup or code.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Headers = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Small files from the same machine: nothing is gained by keeping them, and an upgrade must not meet old ones.
    (b"cache-control", b"no-store"),
)
_FILES = {
    "/ui": ("index.html", b"text/html; charset=utf-8"),
    "/ui/app.js": ("app.js", b"text/javascript; charset=utf-8"),
    "/ui/rates.js": ("rates.js", b"text/javascript; charset=utf-8"),
    "/ui/show.js": ("show.js", b"text/javascript; charset=utf-8"),
    "/ui/style.css": ("style.css", b"text/css; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", b"image/svg+xml"),
}
PATHS = frozenset(_FILES)
"""Everything that is served; it holds no secret, so that no key guards it. The state that it asks for is guarded."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One answer.

    Attributes:
        headers: Beside content type and length, in the form that ASGI takes.
    """

    body: bytes
    content_type: bytes
    headers: Headers


@cache
def _load(path: str) -> Asset:
    name, content_type = _FILES[path]
    return Asset(files("loractl.web").joinpath("static", name).read_bytes(), content_type, _HEADERS)


def asset(path: str) -> Asset | None:
    """Return what a GET of `path` answers, or None: there is no such file. The path is looked up, never opened."""
    return _load(path) if path in _FILES else None
