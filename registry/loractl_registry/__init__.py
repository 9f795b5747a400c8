"""Versioned LoRA adapters: where each came from, whether it may be used, and the bytes that were approved.

Cheap to import: `Registry`, and what it alone needs, is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loractl_registry.clock import utc_now
from loractl_registry.errors import (
    ConflictError,
    DeniedError,
    InvalidNameError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from loractl_registry.outcomes import (
    AddedBase,
    AddedVersion,
    BaseVerification,
    Change,
    Damage,
    ExportReport,
    Finding,
    FsckReport,
    GcReport,
    Promotion,
    StageChange,
    TensorSummary,
    VersionDiff,
    VersionVerification,
)
from loractl_registry.progress import SILENT, Progress
from loractl_registry.records import (
    AdapterFacts,
    AdapterVersion,
    AuditEvent,
    Base,
    ExpertLayout,
    FileEntry,
    Manifest,
    Provenance,
    ServingSnapshot,
)
from loractl_registry.refs import Ref, VersionRef, parse_name, parse_ref
from loractl_registry.stages import Stage, Verb

if TYPE_CHECKING:
    from loractl_registry.policy import SOLO, Policy
    from loractl_registry.provenance import ProvenanceInput
    from loractl_registry.registry import Registry

_LATE = {
    "Policy": "loractl_registry.policy",
    "ProvenanceInput": "loractl_registry.provenance",
    "Registry": "loractl_registry.registry",
    "SOLO": "loractl_registry.policy",
}

__all__ = [
    "SILENT",
    "SOLO",
    "AdapterFacts",
    "AdapterVersion",
    "AddedBase",
    "AddedVersion",
    "AuditEvent",
    "Base",
    "BaseVerification",
    "Change",
    "ConflictError",
    "Damage",
    "DeniedError",
    "ExpertLayout",
    "ExportReport",
    "FileEntry",
    "Finding",
    "FsckReport",
    "GcReport",
    "InvalidNameError",
    "InvalidRefError",
    "Manifest",
    "NotFoundError",
    "Policy",
    "Progress",
    "Promotion",
    "Provenance",
    "ProvenanceInput",
    "Ref",
    "Registry",
    "RegistryError",
    "ServingSnapshot",
    "Stage",
    "StageChange",
    "TensorSummary",
    "UsageError",
    "Verb",
    "VersionDiff",
    "VersionRef",
    "VersionVerification",
    "parse_name",
    "parse_ref",
    "utc_now",
]


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # as late as what it imports

    return getattr(importlib.import_module(_LATE[name]), name)
