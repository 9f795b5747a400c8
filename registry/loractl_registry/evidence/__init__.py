"""Evidence about versions: read, bounded, kept by digest, and signed for.

Imports cryptography and pydantic: import it where it is used.
"""

from __future__ import annotations

from loractl_registry.evidence.errors import (
    EvidenceError,
    EvidenceNotFoundError,
    EvidenceSizeError,
    NoScannerError,
    ScannerError,
    TooMuchEvidenceError,
)
from loractl_registry.evidence.reading import MAX_EVIDENCE_BYTES, Findings, read_effect, read_findings
from loractl_registry.evidence.scanning import Scan, run_scanner
from loractl_registry.evidence.shelf import EvidenceShelf
from loractl_registry.trust import EvidenceType

__all__ = [
    "MAX_EVIDENCE_BYTES",
    "EvidenceError",
    "EvidenceNotFoundError",
    "EvidenceShelf",
    "EvidenceSizeError",
    "EvidenceType",
    "Findings",
    "NoScannerError",
    "Scan",
    "ScannerError",
    "TooMuchEvidenceError",
    "read_effect",
    "read_findings",
    "run_scanner",
]
