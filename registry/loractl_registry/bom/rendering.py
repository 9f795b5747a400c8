"""Writing the bill of materials of one version: the same records give the same bytes."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import cast

from loractl_registry.bom.cards import Json, data_of, model_card_of
from loractl_registry.bom.components import dataset_ref, library_json
from loractl_registry.bom.subject import BomSubject

SERIALS = uuid.uuid5(uuid.NAMESPACE_URL, "https://loractl.dev/bom/v1")
"""Namespace of our serial numbers."""


def render_bom(subject: BomSubject) -> bytes:
    """Return the CycloneDX 1.6 bill of `subject` as JSON.

    Its serial number follows from all that it says but when it was written: a bill that says something else has another
    number, and the same bill, written again, has the same.
    """
    document: Json = json.loads(library_json(subject))
    # The library does not know these fields; the schema that it validates with does.
    metadata = cast("Json", document["metadata"])
    cast("Json", metadata["component"])["modelCard"] = model_card_of(subject)
    data = {dataset_ref(each): data_of(each) for each in subject.datasets}
    for component in cast("list[Json]", document.get("components", [])):
        if (said := data.get(str(component["bom-ref"]))) is not None:
            component["data"] = said
    del document["serialNumber"]
    moment = metadata.pop("timestamp")
    digest = hashlib.sha256(_written(document)).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(SERIALS, digest)}"
    metadata["timestamp"] = moment
    return _written(document)


def _written(document: Json) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()
