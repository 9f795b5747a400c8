"""How many tokens a request asks for, and holding it to what its tenant may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from loractl.gateway.callers import Caller
from loractl.gateway.errors import FieldRefusedError, SizeRefusedError
from loractl.gateway.routes import Route
from loractl.quotas import SizeRefusal, bounded_output

# English text has about four bytes a token; other scripts have fewer, and what was estimated too low is corrected once
# the engine has counted.
_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4
_MAX_ANSWERS = 128
_DEFAULT_OUTPUT = 256  # what admission expects of an answer that sets no bound
_COMPLETION_DEFAULT = 16  # what OpenAI and vLLM give a completion that does not say

_OUTPUT_FIELDS: Mapping[Route, tuple[str, ...]] = {
    Route.COMPLETIONS: ("max_tokens",),
    Route.CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Route.RESPONSES: ("max_output_tokens",),
}
_INPUT_FIELDS = ("prompt", "suffix", "messages", "input", "instructions", "tools")


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a request asks for.

    Attributes:
        input_tokens: Estimate of all prompts together.
        answers: How many there will be: prompts times choices.
        output_tokens: Most tokens of one answer, None for no bound.
    """

    input_tokens: int
    answers: int
    output_tokens: int | None

    @property
    def expected_output(self) -> int:
        """Tokens of all answers together, as far as the request bounds them."""
        return self.answers * (_DEFAULT_OUTPUT if self.output_tokens is None else self.output_tokens)


def amounts_of(route: Route, request: Mapping[str, object]) -> Amounts:
    """Estimate what `request` asks for; what is merely wrong in it is left to the engine to say."""
    prompt = request.get("prompt")
    prompts = len(cast("list[object]", prompt)) if _is_batch(prompt) else 1
    choices = max(_count(request.get(name)) or 1 for name in ("n", "best_of"))
    asked = _asked(route, request)
    return Amounts(
        input_tokens=sum(_tokens_of(request.get(name)) for name in _INPUT_FIELDS),
        answers=prompts * min(choices, _MAX_ANSWERS),
        output_tokens=_COMPLETION_DEFAULT if asked is None and route is Route.COMPLETIONS else asked,
    )


def hold_to_bounds(route: Route, request: dict[str, object], caller: Caller, adapter: str) -> Amounts:
    """Return what `request` asks for, after bounding its answer to what its tenant may have.

    Raises:
        SizeRefusedError: It asks for more than that, or its prompt is longer.
        FieldRefusedError: The field that bounds the answer is no whole number, so that nobody can tell.
    """
    amounts = amounts_of(route, request)
    if caller.tenant is None:
        return amounts
    asked = _asked(route, request)
    most = bounded_output(caller.tenant, adapter, input_tokens=amounts.input_tokens, asked=asked)
    if isinstance(most, SizeRefusal):
        raise SizeRefusedError(most)
    if most is None:
        return amounts
    _require_numbers(route, request)
    if amounts.output_tokens is None or most < amounts.output_tokens:
        request[_OUTPUT_FIELDS[route][0]] = most
        return replace(amounts, output_tokens=most)
    return amounts


def _asked(route: Route, request: Mapping[str, object]) -> int | None:
    """Return the bound that the request sets itself; of two, the engine obeys the first."""
    bounds = (_count(request.get(name)) for name in _OUTPUT_FIELDS[route])
    return next((bound for bound in bounds if bound is not None), None)


def _require_numbers(route: Route, request: Mapping[str, object]) -> None:
    # The engine reads "100" and 100.0 as numbers too, which were not counted here.
    for name in _OUTPUT_FIELDS[route]:
        value = request.get(name)
        if value is not None and _count(value) is None:
            raise FieldRefusedError(f"the field {name} must be a whole number", param=name)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _is_batch(prompt: object) -> bool:
    return isinstance(prompt, list) and any(isinstance(one, str | list) for one in cast("list[object]", prompt))


def _tokens_of(value: object) -> int:
    """Estimate the tokens of anything that JSON can say: texts by their bytes, numbers as token ids."""
    pending, tokens = [value], 0
    while pending:
        one = pending.pop()
        match one:
            case str():
                tokens += -(-len(one.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN)
            case bool() | None:
                pass
            case int() | float():
                tokens += 1
            case list():
                pending += cast("list[object]", one)
            case dict():
                tokens += _TOKENS_A_MESSAGE if "role" in one else 0
                pending += cast("dict[str, object]", one).values()
            case _:
                pass
    return tokens
