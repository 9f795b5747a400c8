"""The base score of a CVSS 3 vector: the formula of the specification, section 7.1."""

from __future__ import annotations

import re
from collections.abc import Mapping

from loractl_registry.advisories.model import Severity

_VECTOR = re.compile(r"CVSS:3\.[01]/([A-Z]{1,3}:[A-Z])(/[A-Z]{1,3}:[A-Z])*")
_IMPACT = {"H": 0.56, "L": 0.22, "N": 0.0}
_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": _IMPACT,
    "I": _IMPACT,
    "A": _IMPACT,
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def severity_of_vector(vector: str) -> Severity:
    """Return the rating of a CVSS 3 vector; unknown if it is malformed or of another version."""
    score = base_score(vector)
    if score is None:
        return Severity.UNKNOWN
    for least, severity in ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM)):
        if score >= least:
            return severity
    return Severity.LOW


def base_score(vector: str) -> float | None:
    """Return the base score, 0.0 to 10.0, None if the vector is malformed or of another version."""
    if len(vector) > 200 or not _VECTOR.fullmatch(vector):
        return None
    held = dict(part.split(":", 1) for part in vector.split("/")[1:])
    try:
        weights = {name: values[held[name]] for name, values in _WEIGHTS.items()}
        privileges = _PRIVILEGES[held["S"]][held["PR"]]
    except KeyError:
        return None
    is_changed = held["S"] == "C"
    base = 1 - (1 - weights["C"]) * (1 - weights["I"]) * (1 - weights["A"])
    impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if is_changed else 6.42 * base
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * weights["AV"] * weights["AC"] * privileges * weights["UI"]
    return _rounded_up(min((1.08 if is_changed else 1.0) * (impact + exploitability), 10.0))


def _rounded_up(score: float) -> float:
    # Of the specification's appendix A: rounding up in floats would make 4.02 of 4.0.
    scaled = round(score * 100_000)
    return scaled / 100_000 if scaled % 10_000 == 0 else (scaled // 10_000 + 1) / 10
