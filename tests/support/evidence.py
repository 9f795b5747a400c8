"""Evidence as other programs write it, and a home in which a team works."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from loractl_registry import AdapterVersion, Registry

LM_EVAL = {
    "results": {
        "mmlu": {"alias": "mmlu", "acc,none": 0.63, "acc_stderr,none": 0.004},
        "gsm8k": {"exact_match,strict-match": 0.41, "exact_match_stderr,strict-match": "N/A"},
    },
    "versions": {"mmlu": 2},
}


def effect_proof(version: AdapterVersion, *, passed: bool = True, **measured: object) -> bytes:
    """Return the parts of a proof of effect that the registry reads."""
    held = {
        "schema": "loractl.effect-proof/1",
        "adapter_digest": version.digest,
        "base_digest": version.base_digest,
        "kind": "engine-and-reference",
    }
    return json.dumps({"measured": held | measured, "verdict": {"passed": passed}}).encode()


class Team:
    """One home in which each person acts with a key of their own."""

    def __init__(self, home: Path, clock: Callable[[], datetime]) -> None:
        self.home, self._clock = home, clock
        self._opened: dict[str, Registry] = {}

    def enrol(self, name: str, *roles: str) -> None:
        """Create a key for `name`; the first one is an operator, who trusts every other."""
        if not self._opened:
            self.of(name).identities.create(name, actor=name)
            self.first = name
            return
        operator = self.of(self.first)
        operator.identities.create(name, actor=name)
        operator.identities.trust(name, self.home / f"keys/{name}.pem.pub", roles, actor=self.first)

    def of(self, name: str) -> Registry:
        """Return the home as `name` opens it."""
        if name not in self._opened:
            self._opened[name] = Registry.open(self.home, clock=self._clock, identity=name)
        return self._opened[name]

    def close(self) -> None:
        """Close what is open."""
        for each in self._opened.values():
            each.close()
