"""Versioned LoRA adapters: where each came from, whether it may be used, and the bytes that were approved.

Cheap to import, because tab completion imports it: most names are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from loractl_registry.errors import (
    ConflictError,
    DeniedError,
    InvalidNameError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from loractl_registry.refs import Ref, VersionRef, parse_name, parse_ref
from loractl_registry.stages import Stage, Verb

if TYPE_CHECKING:
    from loractl_registry.clock import utc_now
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
    from loractl_registry.provenance import ProvenanceInput
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
        ServingTerms,
    )
    from loractl_registry.registry import Registry

_LATE = {
    "clock": ("utc_now",),
    "outcomes": (
        "AddedBase",
        "AddedVersion",
        "BaseVerification",
        "Change",
        "Damage",
        "ExportReport",
        "Finding",
        "FsckReport",
        "GcReport",
        "Promotion",
        "StageChange",
        "TensorSummary",
        "VersionDiff",
        "VersionVerification",
    ),
    "progress": ("SILENT", "Progress"),
    "provenance": ("ProvenanceInput",),
    "records": (
        "AdapterFacts",
        "AdapterVersion",
        "AuditEvent",
        "Base",
        "ExpertLayout",
        "FileEntry",
        "Manifest",
        "Provenance",
        "ServingSnapshot",
        "ServingTerms",
    ),
    "registry": ("Registry",),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _LATE.items() for name in names}

__all__ = [
    "SILENT",
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
    "Progress",
    "Promotion",
    "Provenance",
    "ProvenanceInput",
    "Ref",
    "Registry",
    "RegistryError",
    "ServingSnapshot",
    "ServingTerms",
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
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value
