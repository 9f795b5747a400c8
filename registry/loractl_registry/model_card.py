"""What the front matter of a model card says about where a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loractl_registry.adapter_names import README
from loractl_registry.home_errors import os_errors_named
from loractl_registry.strict_json import as_list, as_object

MAX_FRONT_MATTER_BYTES = 256 * 2**10
MAX_TEXT_LENGTH = 500
MAX_DATASETS = 200


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a card says; None where it says nothing that can be used.

    Attributes:
        licence: `license`, or `license_name` where that is ``other``.
        base: `base_model`, the first where there are several.
    """

    licence: str | None = None
    author: str | None = None
    base: str | None = None
    datasets: tuple[str, ...] = ()


def read_model_card(folder: Path, *, is_cache: bool = False) -> ModelCard:
    """Read the card in `folder`. One that is missing or malformed says nothing: it is evidence, not a condition.

    A link says nothing either, except in the Hugging Face cache, where every file is one.

    Raises:
        RegistryError: The operating system refused.
    """
    path = folder / README
    if (path.is_symlink() and not is_cache) or not path.is_file():
        return ModelCard()
    with os_errors_named(path), path.open("rb") as stream:
        return parse_model_card(stream.read(MAX_FRONT_MATTER_BYTES))


def parse_model_card(data: bytes) -> ModelCard:
    """Read the YAML between the first two lines of three dashes."""
    lines = data.decode("utf-8", errors="replace").lstrip("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return ModelCard()
    try:
        end = next(number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---")
    except StopIteration:
        return ModelCard()
    held = _parse_yaml("\n".join(lines[1:end]))
    licence = _text(held.get("license"))
    if licence == "other":
        licence = _text(held.get("license_name")) or licence
    datasets = [text for item in _items(held.get("datasets")) if (text := _text(item)) is not None]
    bases = [text for item in _items(held.get("base_model")) if (text := _text(item)) is not None]
    return ModelCard(licence, _text(held.get("author")), bases[0] if bases else None, tuple(datasets[:MAX_DATASETS]))


def _parse_yaml(text: str) -> dict[str, object]:
    import yaml  # only cards need it

    try:
        value: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return as_object(value) or {}


def _items(value: object) -> list[object]:
    items = as_list(value)
    return [value] if items is None else items


def _text(value: object) -> str | None:
    """Return a short printable text, None for anything else."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    return text if text and text.isprintable() and len(text) <= MAX_TEXT_LENGTH else None
