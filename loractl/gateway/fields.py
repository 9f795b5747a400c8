"""Which fields of a request are not a client's to set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from loractl.gateway.errors import FieldRefusedError
from loractl.gateway.routes import Route

_FILES = "it would have the server load data of the client's choice"
_ENGINE = "it reaches into the engine"
_RENDER = "it would have the server run a template of the client's choice"
_ORDER = "the server decides the order of requests"
_KEPT = "the server keeps no answers"

REFUSED_FIELDS: Mapping[str, str] = {
    "chat_template": _RENDER,
    "media_io_kwargs": _FILES,
    "mm_processor_kwargs": _FILES,
    "prompt_embeds": _FILES,
    "kv_transfer_params": _ENGINE,
    "ec_transfer_params": _ENGINE,
    "vllm_xargs": _ENGINE,
    "logits_processors": _ENGINE,
    "priority": _ORDER,
    "session_id": _ORDER,
    "request_id": "the server names requests, in the header x-loractl-request-id",
    "use_beam_search": "each step of a beam is a new request to the engine, which a revocation could not end",
    "background": _KEPT,
    "previous_response_id": _KEPT,
}
"""Field of vLLM's requests -> why a client may not set it. None, false and 0 mean that it is not set."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text"})
_INPUT_ITEMS = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    }
)
_CLIENT_TOOLS = frozenset({"function", "custom", "namespace"})


def check_fields(route: Route, request: Mapping[str, object]) -> None:
    """Refuse what would let a client pick files, addresses, code or engine internals.

    Fields that are merely wrong are left to the engine, which says so better.

    Raises:
        FieldRefusedError: The message names the field and why.
    """
    for name, reason in REFUSED_FIELDS.items():
        if _is_set(request.get(name)):
            raise FieldRefusedError(f"the field {name} cannot be set: {reason}; leave it out", param=name)
    template = _mapping(request.get("chat_template_kwargs"))
    if "chat_template" in template:
        raise FieldRefusedError(
            f"chat_template_kwargs cannot set chat_template: {_RENDER}; leave it out", param="chat_template_kwargs"
        )
    if route is Route.CHAT_COMPLETIONS:
        for message in _mappings(request.get("messages")):
            _check_parts(message.get("content"), "messages")
    if route is Route.RESPONSES:
        _check_input(request.get("input"))
        _check_tools(request.get("tools"))


def _check_input(items: object) -> None:
    for item in _mappings(items):
        kind = item.get("type", "message")
        if not _is_one_of(kind, _INPUT_ITEMS):
            raise FieldRefusedError(f"input items of type {_shown(kind)} are not served; send text", param="input")
        for key in ("content", "output", "summary"):
            _check_parts(item.get(key), "input")


def _check_parts(parts: object, param: str) -> None:
    for part in _mappings(parts):
        # vLLM guesses the kind of a part that does not name it, or that has a uuid, from its other keys.
        if not _is_one_of(part.get("type"), _TEXT_PARTS) or "uuid" in part:
            raise FieldRefusedError(
                f"content of type {_shown(part.get('type'))} is not served: the server fetches nothing for a client; "
                "send text",
                param=param,
            )


def _check_tools(tools: object) -> None:
    for tool in _mappings(tools):
        if not _is_one_of(tool.get("type"), _CLIENT_TOOLS):
            kind = _shown(tool.get("type"))
            raise FieldRefusedError(
                f"tools of type {kind} are not served: the server runs no tools; send function tools", param="tools"
            )


def _is_one_of(kind: object, kinds: frozenset[str]) -> bool:
    return isinstance(kind, str) and kind in kinds


def _is_set(value: object) -> bool:
    return not (value is None or value is False or (isinstance(value, int) and value == 0))


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _mappings(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        for item in cast("list[object]", value):
            if isinstance(item, dict):
                yield cast("Mapping[str, object]", item)


def _shown(kind: object) -> str:
    # What is no text may be as large, and as deep, as a body: it is not written out to show the beginning of it.
    return ascii(kind[:40]) if isinstance(kind, str) else f"a {type(kind).__name__}"
