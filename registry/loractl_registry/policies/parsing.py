"""From the bytes of a ``policy.toml`` to rules that know their lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from loractl_registry.policies.contradictions import contradictions
from loractl_registry.policies.document import PolicyDocument
from loractl_registry.policies.errors import PolicyFileError, Problem
from loractl_registry.policies.locating import KeyPath
from loractl_registry.policies.toml_text import TomlText, read_toml
from loractl_registry.policies.validating import in_order, validated

POLICY_FILE = "policy.toml"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that does not contradict itself.

    Attributes:
        digest: ``sha256:hex`` over the exact bytes of the file, comments included.
    """

    document: PolicyDocument
    digest: str
    source: TomlText

    @property
    def lines(self) -> Mapping[KeyPath, int]:
        """Line of every key, from 1."""
        return self.source.lines

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a rule, else of the nearest table around it, None if not even that is written."""
        return self.source.line_of(path)


def parse_policy(data: bytes, *, name: str = POLICY_FILE) -> Policy:
    """Parse and check a policy. Without a single rule it is valid, and denies everything.

    Args:
        data: At most 64 KiB of UTF-8.
        name: What the file is called in messages.

    Raises:
        PolicyFileError: It is malformed or contradicts itself; the message names the line.
    """
    source = read_toml(data, name)
    document = validated(PolicyDocument, source.values, source)
    if isinstance(document, list):
        raise PolicyFileError(name, document)
    found = [Problem(source.line_of(path), text, way_out) for path, text, way_out in contradictions(document)]
    if found:
        raise PolicyFileError(name, in_order(found))
    return Policy(document, f"sha256:{hashlib.sha256(data).hexdigest()}", source)
