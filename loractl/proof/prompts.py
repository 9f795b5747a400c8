"""The prompts of a proof: the user's, else the model card's, else generic ones; and random tokens beside them.

A version holds its configuration, its weights and its README alone, so canary prompts of an adapter's own are the
``widget`` texts of the README's front matter, which the Hub shows as examples too.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast

from loractl.proof.errors import PromptsError
from loractl_registry.adapter_names import README
from loractl_registry.strict_json import StrictJsonError, as_list, as_object, parse_object

MAX_PROMPTS = 32
MAX_TOKENS = 24
MAX_FILE_BYTES = 2**20
RANDOM_ROWS, RANDOM_TOKENS = 8, 16
"""Random tokens reach experts that a few sentences do not."""

_MIN_TOKENS = 2
_SEED = 20_250_101
_GENERIC = (
    "The capital of France is Paris, and the capital of Italy is",
    "Question: What should I do when my order has not arrived? Answer:",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "Once upon a time, in a village by the sea, there lived",
    "1, 2, 3, 5, 8, 13, 21,",
    "Translate to German: The weather is nice today. ->",
    "Dear customer, thank you for your message. We are sorry that",
    '{"name": "Ada", "born": 1815, "field": "',
)


class Source(StrEnum):
    """Where the texts came from."""

    FILE = "file"
    CARD = "card"
    GENERIC = "generic"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts as token ids, which engine and reference get alike."""

    source: Source
    rows: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """Digest of the ids and their source."""
        text = json.dumps([self.source.value, self.rows], separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class _Encoding(Protocol):
    ids: list[int]


class _Tokenizer(Protocol):
    def encode(self, sequence: str) -> _Encoding: ...


def choose_prompts(
    base: Path, config: Mapping[str, object], *, adapter: Path | None = None, file: Path | None = None
) -> PromptSet:
    """Return texts of `file`, else of the card in `adapter`, else generic ones, as tokens of `base`, and random rows.

    A base without ``tokenizer.json`` gets random rows alone.

    Args:
        base: Folder of the base.
        config: Its config.json.
        adapter: Folder of the adapter, for its card.
        file: One prompt a line, or JSONL of objects with a ``prompt``.

    Raises:
        PromptsError: `file` cannot be read or used, or the base says nothing of its vocabulary.
    """
    words = config.get("vocab_size")
    if not isinstance(words, int) or words < _MIN_TOKENS:
        raise PromptsError("the base's config.json has no vocab_size", hint="use a base with a plain config.json")
    tokenizer = _tokenizer(base)
    if tokenizer is None:
        if file is not None:
            raise PromptsError(f"cannot tokenize {file}: the base has no tokenizer.json", hint="leave out --prompts")
        return PromptSet(Source.RANDOM, random_rows(words, RANDOM_ROWS * 2))
    source, texts = _texts(adapter, file)
    rows = [tuple(tokenizer.encode(text).ids[:MAX_TOKENS]) for text in texts]
    usable = [row for row in rows if len(row) >= _MIN_TOKENS and max(row) < words]
    if not usable and source is not Source.GENERIC:
        raise PromptsError("no prompt has two tokens or more", hint="write whole sentences")
    return PromptSet(source, (*usable, *random_rows(words, RANDOM_ROWS)))


def random_rows(
    words: int, count: int, *, seed: int = _SEED, tokens: int = RANDOM_TOKENS
) -> tuple[tuple[int, ...], ...]:
    """Return `count` rows of random tokens below `words`, always the same for the same arguments."""
    source = random.Random(seed)  # noqa: S311  (nothing depends on its being hard to guess)
    return tuple(tuple(source.randrange(words) for _ in range(tokens)) for _ in range(count))


def _texts(adapter: Path | None, file: Path | None) -> tuple[Source, Sequence[str]]:
    if file is not None:
        return Source.FILE, _read_file(file)
    if adapter is not None and (own := card_prompts(adapter)):
        return Source.CARD, own
    return Source.GENERIC, _GENERIC


def card_prompts(folder: Path) -> tuple[str, ...]:
    """Return the ``widget`` texts of the card in `folder`; a card that is missing or malformed has none."""
    import yaml  # only cards need it

    path = folder / README
    if path.is_symlink() or not path.is_file():
        return ()
    with path.open("rb") as stream:
        lines = stream.read(2**18).decode("utf-8", errors="replace").lstrip("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return ()
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), 0)
    try:
        held = as_object(yaml.safe_load("\n".join(lines[1:end]))) or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return ()
    items = [as_object(item) or {} for item in as_list(held.get("widget")) or []]
    texts = [text for item in items if isinstance(text := item.get("text"), str) and text.strip()]
    return tuple(texts[:MAX_PROMPTS])


def _read_file(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        lines = [line for line in data.decode("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"cannot read prompts from {file}: {error}", hint="write UTF-8, a prompt a line") from error
    if len(data) > MAX_FILE_BYTES or len(lines) > MAX_PROMPTS:
        raise PromptsError(f"{file} has more than {MAX_PROMPTS} prompts or {MAX_FILE_BYTES} bytes", hint="keep fewer")
    if not lines:
        raise PromptsError(f"{file} has no prompts", hint="write a prompt a line")
    if file.suffix != ".jsonl":
        return tuple(lines)
    return tuple(_prompt_of(line, number, file) for number, line in enumerate(lines, 1))


def _prompt_of(line: str, number: int, file: Path) -> str:
    try:
        prompt = parse_object(line.encode()).get("prompt")
    except StrictJsonError as error:
        raise PromptsError(f"{file}, line {number}: {error}", hint='write {"prompt": "..."} in each line') from error
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptsError(f"{file}, line {number} has no text under prompt", hint='write {"prompt": "..."}')
    return prompt


def _tokenizer(base: Path) -> _Tokenizer | None:
    path = base / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer  # comes with the engine

    try:
        return cast("_Tokenizer", Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises the bare class for whatever is wrong in the file
        raise PromptsError(f"cannot read {path.name} of the base: {error}", hint="loractl base verify") from error
