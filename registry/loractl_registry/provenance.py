"""What a user says about where a version comes from, and how it joins what was found out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loractl_registry._store.rows import provenance_to_dict, to_json
from loractl_registry.actors import MAX_REASON_LENGTH
from loractl_registry.errors import InvalidNameError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.records import DataSetTerms, Provenance
from loractl_registry.refs import parse_name
from loractl_registry.refusals import ProvenanceError
from loractl_registry.strict_json import StrictJsonError, as_list, as_object, parse_object

MAX_FILE_BYTES = 1 << 20
_TEXT_KEYS = ("author", "licence", "code_commit", "note")
_KNOWN = (*_TEXT_KEYS, "datasets")
_TERMS = {"licence": "licence", "class": "data_class"}
_WRITE_DATASET = "write NAME[,licence=SPDX][,class=CLASS], such as tickets-2026,licence=MIT,class=internal"


@dataclass(frozen=True, slots=True)
class ProvenanceInput:
    """What the command line says; it wins over `file`, and `file` over what was found out.

    Attributes:
        trained_on: Data sets, added to those of the file or of the model card.
        file: JSON object with any of author, licence, code_commit, note, datasets; other keys are kept as extra. A
            data set is a text, or an object with its name, licence and class.
        datasets: Data sets of which something is said beside the name; each is also one that it was trained on.
    """

    trained_on: tuple[str, ...] = ()
    licence: str | None = None
    code_commit: str | None = None
    note: str | None = None
    file: Path | None = None
    datasets: tuple[DataSetTerms, ...] = ()


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
    dataset_terms: tuple[DataSetTerms, ...] = ()


def read_stated(said: ProvenanceInput) -> Stated:
    """Read and check everything that the user said.

    Raises:
        ProvenanceError: The file is no JSON object, or a known key has the wrong type.
    """
    held = {} if said.file is None else _read_file(said.file)
    texts = {key: _text(key, held.get(key)) for key in _TEXT_KEYS}
    flags = {"licence": said.licence, "code_commit": said.code_commit, "note": said.note}
    texts |= {key: _text(key, value) for key, value in flags.items() if value is not None}
    in_file = _datasets(held.get("datasets", []))
    terms = _merged_terms(in_file, said.datasets)
    named = (each.name for each in (*in_file, *said.datasets))
    return Stated(
        author=texts["author"],
        licence=texts["licence"],
        code_commit=texts["code_commit"],
        note=texts["note"],
        datasets=_merged(named, _texts("trained_on", list(said.trained_on))),
        extra={key: value for key, value in held.items() if key not in _KNOWN},
        dataset_terms=terms,
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
        dataset_terms=_merged_terms(found.dataset_terms, stated.dataset_terms),
    )


def provenance_digest(provenance: Provenance) -> str:
    """Return ``sha256:hex`` over the one JSON text of `provenance`: what an addition signs."""
    text = to_json(provenance_to_dict(provenance))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def parse_dataset(text: str) -> DataSetTerms:
    """Read ``NAME[,licence=SPDX][,class=CLASS]``.

    Raises:
        ProvenanceError: It is something else.
    """
    name, *terms = text.split(",")
    said: dict[str, str] = {}
    for term in terms:
        key, _, value = term.partition("=")
        if key not in _TERMS or key in said:
            raise ProvenanceError(f"data set {text[:80]!r} has {term[:40]!r} behind its name", hint=_WRITE_DATASET)
        said[key] = value
    return _terms({"name": name, **said})


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


def _datasets(value: object) -> tuple[DataSetTerms, ...]:
    items = as_list(value)
    if items is None:
        raise ProvenanceError(f"provenance datasets is {str(value)[:80]!r}", hint="write a list of data sets")
    return tuple(_terms({"name": item} if (held := as_object(item)) is None else held) for item in items)


def _terms(held: dict[str, object]) -> DataSetTerms:
    if unknown := sorted(held.keys() - {"name", *_TERMS}):
        raise ProvenanceError(
            f"a data set has the key {unknown[0][:40]!r}", hint="a data set has a name, a licence and a class"
        )
    name = _text("datasets", held.get("name"))
    if name is None:
        raise ProvenanceError("a data set has no name", hint=_WRITE_DATASET)
    said_class = _text("class of a data set", held.get("class"))
    try:
        data_class = None if said_class is None else parse_name(said_class)
    except InvalidNameError as error:
        raise ProvenanceError(
            f"the class of data set {name[:80]!r} is {str(said_class)[:80]!r}", hint=error.hint
        ) from error
    return DataSetTerms(name, _text("licence of a data set", held.get("licence")), data_class)


def _merged_terms(*lists: Iterable[DataSetTerms]) -> tuple[DataSetTerms, ...]:
    """Return what is said of each data set, the later lists winning; those of which nothing is said are left out."""
    merged: dict[str, DataSetTerms] = {}
    for each in (each for items in lists for each in items):
        before = merged.get(each.name, each)
        merged[each.name] = DataSetTerms(
            each.name, each.licence or before.licence, each.data_class or before.data_class
        )
    return tuple(each for each in merged.values() if each.licence or each.data_class)


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
