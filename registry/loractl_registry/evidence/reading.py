"""From the bytes of a piece of evidence to what they say: who made it, whether it passed, and its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from loractl_registry.evidence.errors import EvidenceError, EvidenceSizeError
from loractl_registry.records import AdapterVersion
from loractl_registry.strict_json import StrictJsonError, as_object, parse_object
from loractl_registry.trust import EvidenceType

MAX_EVIDENCE_BYTES = 16 * 2**20
MAX_METRICS = 5000
MAX_NAME = 200
LM_EVAL = "lm-eval"
EFFECT_SCHEMA = "loractl.effect-proof/1"

_T = TypeVar("_T")
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+/@-]{0,99}", re.ASCII)
_NO_FILTER = ",none"
_WRITE = 'write {"metrics": {"accuracy": 0.9}}, or what lm-eval writes'
_SAY = "say whether it passed: --passed or --failed"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a piece of evidence says.

    Attributes:
        kind: What made it, None if nobody said.
        passed: Its verdict, None if it has none.
    """

    type: EvidenceType
    kind: str | None
    passed: bool | None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


def read_findings(data: bytes, type_: EvidenceType, *, kind: str | None = None, passed: bool | None = None) -> Findings:
    """Read a piece of evidence; `kind` and `passed` are what somebody says beside it.

    An evaluation is JSON: what lm-eval writes, an object of numbers, or an object with ``metrics``, and optionally
    ``kind`` and ``passed``. Of the others JSON is read the same way, and anything else is kept unread.

    Raises:
        EvidenceSizeError: It is empty or too large.
        EvidenceError: It is malformed, contradicts what was said, or a scan without a verdict.
    """
    require_size(data)
    is_json = data.lstrip()[:1] == b"{"
    if type_ is EvidenceType.EVAL and not is_json:
        raise EvidenceError("an evaluation must be a JSON object", hint=_WRITE)
    held = _parsed(data) if is_json else {}
    found = _read(held, is_eval=type_ is EvidenceType.EVAL)
    if type_ is EvidenceType.EVAL and not found.metrics:
        raise EvidenceError("it holds no number", hint=_WRITE)
    verdict = _agreed("passed", found.passed, passed)
    if type_ is EvidenceType.SCAN and verdict is None:
        raise EvidenceError("a scan must have passed or failed", hint=_SAY)
    return Findings(type_, _kind(_agreed("kind", found.kind, kind)), verdict, found.metrics)


def read_effect(data: bytes, version: AdapterVersion) -> Findings:
    """Read a proof of effect, whose verdict its maker has judged.

    Raises:
        EvidenceSizeError: It is empty or too large.
        EvidenceError: It is something else, or about other bytes than those of `version` and its base.
    """
    require_size(data)
    held, again = _parsed(data), f"make it again: loractl prove {version.ref}"
    measured, verdict = as_object(held.get("measured")), as_object(held.get("verdict"))
    if measured is None or verdict is None or measured.get("schema") != EFFECT_SCHEMA:
        raise EvidenceError("it is no proof of effect", hint=again)
    for key, expected in (("adapter_digest", version.digest), ("base_digest", version.base_digest)):
        if measured.get(key) != expected:
            raise EvidenceError(f"its {key} is {str(measured.get(key))[:80]}, not {expected}", hint=again)
    kind, passed = measured.get("kind"), verdict.get("passed")
    if not isinstance(kind, str) or not isinstance(passed, bool):
        raise EvidenceError("it does not say how it was proved and whether it passed", hint=again)
    return Findings(EvidenceType.EFFECT, _kind(kind), passed)


def require_size(data: bytes) -> None:
    """Return if `data` may be kept as evidence, or raise `EvidenceSizeError`."""
    if not data:
        raise EvidenceSizeError("it is empty")
    if len(data) > MAX_EVIDENCE_BYTES:
        raise EvidenceSizeError(f"it is larger than {MAX_EVIDENCE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class _Read:
    kind: str | None = None
    passed: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


def _parsed(data: bytes) -> dict[str, object]:
    try:
        return parse_object(data)
    except StrictJsonError as error:
        raise EvidenceError(str(error), hint="write JSON as the standard says, in UTF-8") from error


def _read(held: dict[str, object], *, is_eval: bool) -> _Read:
    results = as_object(held.get("results"))
    if results is not None and all(as_object(each) is not None for each in results.values()):
        return _Read(LM_EVAL, None, _collected(_of_lm_eval(results)))
    kind, passed = held.get("kind"), held.get("passed")
    if kind is not None and not isinstance(kind, str):
        _refuse("kind", kind)
    if passed is not None and not isinstance(passed, bool):
        _refuse("passed", passed)
    if "metrics" in held:
        metrics = as_object(held["metrics"])
        if metrics is None:
            _refuse("metrics", held["metrics"])
        return _Read(kind, passed, _collected(_numbers(metrics)))
    flat = {key: value for key, value in held.items() if key not in ("kind", "passed")}
    return _Read(kind, passed, _collected(_numbers(flat)) if is_eval else {})


def _of_lm_eval(results: dict[str, object]) -> Iterator[tuple[str, float]]:
    """Yield ``task/metric``; a metric after a filter keeps its name, ``exact_match,strict-match``."""
    for task, values in results.items():
        for metric, value in (as_object(values) or {}).items():
            number = _number(value)
            # Beside numbers there are aliases, and N/A where there is no error to state.
            if number is not None:
                yield f"{task}/{metric.removesuffix(_NO_FILTER)}", number


def _numbers(held: dict[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in held.items():
        number = _number(value)
        if number is None:
            _refuse(name, value)
        yield name, number


def _collected(pairs: Iterator[tuple[str, float]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, number in pairs:
        if not name.strip() or name != name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise EvidenceError(f"it calls a number {ascii(name)[:80]}", hint=_WRITE)
        if name in metrics:
            raise EvidenceError(f"it has {name[:80]!r} twice", hint=_WRITE)
        metrics[name] = number
        if len(metrics) > MAX_METRICS:
            raise EvidenceError(f"it has more than {MAX_METRICS} numbers", hint="keep a summary")
    return metrics


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _kind(kind: str | None) -> str | None:
    if kind is not None and not _KIND.fullmatch(kind):
        raise EvidenceError(
            f"its kind is {ascii(kind)[:80]}", hint="write 1 to 100 letters, digits, blanks and . _ + / @ -"
        )
    return kind


def _agreed(what: str, found: _T | None, said: _T | None) -> _T | None:
    if found is not None and said is not None and found != said:
        raise EvidenceError(f"it says {what} {found!s}, and you say {said!s}", hint="say nothing beside what it says")
    return said if found is None else found


def _refuse(name: str, value: object) -> NoReturn:
    raise EvidenceError(f"its {name[:80]!r} is {ascii(value)[:80]}", hint=_WRITE)
