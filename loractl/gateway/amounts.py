"""How many tokens a request asks for, and holding it to what its tenant may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from loractl.gateway.callers import Caller
from loractl.gateway.errors import FieldRefusedError, SizeRefusedError
from loractl.gateway.routes import Route
from loractl.quotas import SizeRefusal, bounded_output, context_of

# English text has about four bytes a token; other scripts have fewer, and what was estimated too low is corrected once
# the engine has counted.
_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE, _MOST_A_MESSAGE = 4, 256  # what a chat template puts around a message
_MAX_ANSWERS = 128
_DEFAULT_OUTPUT = 256  # what admission expects of an answer that sets no bound
_COMPLETION_DEFAULT = 16  # what OpenAI and vLLM give a completion that does not say

_OUTPUT_FIELDS: Mapping[Route, tuple[str, ...]] = {
    Route.COMPLETIONS: ("max_tokens",),
    Route.CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Route.RESPONSES: ("max_output_tokens",),
}
# Everything whose text can get into a prompt: templates write out tools, documents and their own arguments.
_INPUT_FIELDS = (
    *("suffix", "messages", "input", "instructions", "tools"),
    *("documents", "chat_template_kwargs", "previous_input_messages"),
)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a request asks for.

    Attributes:
        input_tokens: Estimate of all prompts together.
        longest_input: Estimate of the longest prompt.
        most_input: What the longest prompt cannot exceed: no token stands for less than a byte, but for those of the
            chat template.
        answers: How many there will be: prompts times choices.
        output_tokens: Most tokens of one answer, None for no bound.
    """

    input_tokens: int
    longest_input: int
    most_input: int
    answers: int
    output_tokens: int | None

    @property
    def expected_output(self) -> int:
        """Tokens of all answers together, as far as the request bounds them."""
        return self.answers * (_DEFAULT_OUTPUT if self.output_tokens is None else self.output_tokens)


def amounts_of(route: Route, request: Mapping[str, object]) -> Amounts:
    """Estimate what `request` asks for; what is merely wrong in it is left to the engine to say."""
    prompts = _prompts(request.get("prompt"))
    rest = _size_of([request[name] for name in _INPUT_FIELDS if name in request])
    sizes = [one + rest for one in map(_size_of, prompts)]
    choices = max(_count(request.get(name)) or 1 for name in ("n", "best_of"))
    asked = _asked(route, request)
    return Amounts(
        input_tokens=sum(one.tokens for one in sizes),
        longest_input=max(one.tokens for one in sizes),
        most_input=max(one.most for one in sizes),
        answers=len(prompts) * min(choices, _MAX_ANSWERS),
        output_tokens=_COMPLETION_DEFAULT if asked is None and route is Route.COMPLETIONS else asked,
    )


def check_answers(amounts: Amounts, caller: Caller) -> None:
    """Refuse a batch that nobody could share the engine with: it waits for one turn, and each answer takes a seat.

    Raises:
        FieldRefusedError: It asks for more answers than OpenAI gives at once.
    """
    if caller.tenant is not None and amounts.answers > _MAX_ANSWERS:
        raise FieldRefusedError(
            f"{amounts.answers} answers, prompts times n, are more than the {_MAX_ANSWERS} that a request may ask for; "
            "send several requests",
            param="prompt",
        )


def needs_count(amounts: Amounts, caller: Caller, adapter: str) -> bool:
    """Whether only the engine can say if the longest prompt and its answer are within the tenant's context."""
    context = context_of(caller.tenant, adapter) if caller.tenant is not None else None
    return context is not None and amounts.most_input + (amounts.output_tokens or 1) > context


def hold_to_bounds(route: Route, request: dict[str, object], amounts: Amounts, caller: Caller, adapter: str) -> Amounts:
    """Return `amounts` after bounding the answer to what the tenant may have.

    Raises:
        SizeRefusedError: The request asks for more than that, or its prompt is longer.
        FieldRefusedError: The field that bounds the answer is no whole number, so that nobody can tell.
    """
    if caller.tenant is None:
        return amounts
    asked = _asked(route, request)
    most = bounded_output(caller.tenant, adapter, input_tokens=amounts.longest_input, asked=asked)
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


def _prompts(prompt: object) -> list[object]:
    """Return the prompts of a completion, one for whatever is no list of them."""
    if isinstance(prompt, list):
        found = cast("list[object]", prompt)
        if any(isinstance(one, str | list) for one in found):
            return found
    return [prompt]


class _Size(NamedTuple):
    tokens: int = 0
    most: int = 0

    def __add__(self, other: object) -> _Size:
        assert isinstance(other, _Size)  # noqa: S101  # tuples of any kind can be added
        return _Size(self.tokens + other.tokens, self.most + other.most)


def _size_of(value: object) -> _Size:
    """Estimate the tokens of anything that JSON can say: texts by their bytes, numbers as token ids."""
    pending, tokens, most = [value], 0, 0
    while pending:
        one = pending.pop()
        match one:
            case str():
                size = len(one.encode("utf-8", "surrogatepass"))
                tokens, most = tokens - (-size // _BYTES_A_TOKEN), most + size
            case bool() | None:
                pass
            case int() | float():
                tokens, most = tokens + 1, most + 1
            case list():
                pending += cast("list[object]", one)
            case dict():
                is_message = "role" in one
                tokens, most = tokens + _TOKENS_A_MESSAGE * is_message, most + _MOST_A_MESSAGE * is_message
                # A tool's schema has its names as keys, and the template writes them out.
                pending += [*cast("dict[str, object]", one).keys(), *cast("dict[str, object]", one).values()]
            case _:
                pass
    return _Size(tokens, most)
