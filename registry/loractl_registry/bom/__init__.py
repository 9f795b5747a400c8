"""The bill of materials of a version, as a CycloneDX ML-BOM.

Imports the CycloneDX library (0.2 s), and jsonschema to check: import it where it is used.
"""

from __future__ import annotations

from loractl_registry.bom.attached import attachments_of
from loractl_registry.bom.errors import BomInvalidError, BomUnavailableError
from loractl_registry.bom.rendering import render_bom
from loractl_registry.bom.subject import AttachmentKind, BomAttachment, BomDataset, BomSubject, datasets_of
from loractl_registry.bom.validating import check_bom

__all__ = [
    "AttachmentKind",
    "BomAttachment",
    "BomDataset",
    "BomInvalidError",
    "BomSubject",
    "BomUnavailableError",
    "attachments_of",
    "check_bom",
    "datasets_of",
    "render_bom",
]
