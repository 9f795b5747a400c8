"""The allow-list of routes; whatever is not on it does not exist."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import cast

from loractl.gateway.asgi import Scope
from loractl.gateway.errors import RouteNotFoundError
from loractl.web.assets import PATHS as PAGE_PATHS

_MODELS_PREFIX = "/v1/models/"


class Route(Enum):
    """A route that exists: method and path."""

    MODELS = ("GET", "/v1/models")
    MODEL = ("GET", _MODELS_PREFIX)
    COMPLETIONS = ("POST", "/v1/completions")
    CHAT_COMPLETIONS = ("POST", "/v1/chat/completions")
    RESPONSES = ("POST", "/v1/responses")
    HEALTH = ("GET", "/health")
    METRICS = ("GET", "/metrics")
    STATE = ("GET", "/loractl/v1/state")
    PAGE = ("GET", "/ui")

    @property
    def path(self) -> str:
        """The path, or for one model the prefix of it."""
        path: str = self.value[1]
        return path


_EXACT: Mapping[tuple[str, str], Route] = {
    **{route.value: route for route in Route if route is not Route.MODEL},
    **{("GET", path): Route.PAGE for path in PAGE_PATHS},
}


def match_route(scope: Scope) -> tuple[Route, str | None]:
    """Return the route of an HTTP request, with the model's name if it is for one model, or the file of the page.

    The path has to be spelled exactly: nothing is decoded, collapsed or trimmed, so that no later layer can read it
    differently. ``%40`` in a model's name is the one exception, because some clients encode the ``@`` of a ref.

    Raises:
        RouteNotFoundError: It is not on the allow-list.
    """
    method, path = cast("str", scope["method"]), cast("str", scope["path"])
    raw_path = cast("bytes | None", scope.get("raw_path"))
    route = _EXACT.get((method, path))
    if route is not None and (raw_path is None or raw_path == path.encode()):
        return route, path if route is Route.PAGE else None
    name = path.removeprefix(_MODELS_PREFIX)
    is_exact = raw_path is None or raw_path.replace(b"%40", b"@") == path.encode()
    if method == "GET" and name != path and is_exact and _is_plain(name):
        return Route.MODEL, name
    raise RouteNotFoundError


def _is_plain(name: str) -> bool:
    return bool(name) and name.isascii() and name.isprintable() and not set(name) & set("/\\%?# ")
