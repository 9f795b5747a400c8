"""What a user says about where a version comes from, and how it joins what was found out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.actors import MAX_REASON_LENGTH
from loractl_registry.home_errors import os_errors_named
from loractl_registry.records import Provenance
from loractl_registry.refusals import ProvenanceError
from loractl_registry.strict_json import StrictJsonError, as_list, parse_object

MAX_FILE_BYTES = 1 << 20
_TEXT_KEYS = ("author", "licence", "code_commit", "note")
_KNOWN = (*_TEXT_KEYS, "datasets")


@dataclass(frozen=True, slots=True)
class ProvenanceInput:
    """What the command line says; it wins over `file`, and `file` over what was found out.

    Attributes:
        trained_on: Data sets, added to those of the file or of the model card.
        file: JSON object with any of author, licence, code_commit, note, datasets; other keys are kept as extra.
    """

    trained_on: tuple[str, ...] = ()
    licence: str | None = None
    code_commit: str | None = None
    note: str | None = None
    file: Path | None = None


NOTHING_SAID = ProvenanceInput()


@dataclass(frozen=True, slots=True)
class Stated:
    """`ProvenanceInput` after its file was read."""

    author: str | None
    licence: str | None
    code_commit: str | None
    note: str | None
    datasets: tuple[str, ...]
    extra: dict[str, object]


def read_stated(said: ProvenanceInput) -> Stated:
    """Read and check everything that the user said.

    Raises:
        ProvenanceError: The file is no JSON object, or a known key has the wrong type.
    """
    held = {} if said.file is None else _read_file(said.file)
    texts = {key: _text(key, held.get(key)) for key in _TEXT_KEYS}
    flags = {"licence": said.licence, "code_commit": said.code_commit, "note": said.note}
    texts |= {key: _text(key, value) for key, value in flags.items() if value is not None}
    return Stated(
        author=texts["author"],
        licence=texts["licence"],
        code_commit=texts["code_commit"],
        note=texts["note"],
        datasets=_merged(_texts("datasets", held.get("datasets", [])), _texts("trained_on", list(said.trained_on))),
        extra={key: value for key, value in held.items() if key not in _KNOWN},
    )


def joined(found: Provenance, stated: Stated) -> Provenance:
    """Return what was found out, with what was stated on top."""
    return Provenance(
        source=found.source,
        commit=found.commit,
        author=stated.author or found.author,
        licence=stated.licence or found.licence,
        datasets=_merged(found.datasets, stated.datasets),
        code_commit=stated.code_commit or found.code_commit,
        note=stated.note or found.note,
        extra={**found.extra, **stated.extra},
    )


def _read_file(file: Path) -> dict[str, object]:
    with os_errors_named(file), file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ProvenanceError(
            f"{file} is larger than {MAX_FILE_BYTES} bytes", hint="keep provenance short, link the rest"
        )
    try:
        return parse_object(data)
    except StrictJsonError as error:
        raise ProvenanceError(f"{file}: {error}", hint='write an object such as {"licence": "MIT"}') from error


def _text(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_REASON_LENGTH:
        raise ProvenanceError(
            f"provenance {key} is {str(value)[:80]!r}", hint=f"write a text of 1 to {MAX_REASON_LENGTH} characters"
        )
    return value.strip()


def _texts(key: str, value: object) -> tuple[str, ...]:
    items = as_list(value)
    if items is None:
        raise ProvenanceError(f"provenance {key} is {str(value)[:80]!r}", hint="write a list of texts")
    texts = (_text(key, item) for item in items)
    return tuple(text for text in texts if text is not None)


def _merged(*lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for items in lists for item in items))
