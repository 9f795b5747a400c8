"""The parts of CycloneDX for models and data that the library does not have yet: modelCard, and what data is.

Both are plain JSON here, put into what the library writes and validated with the rest against the library's schema.
"""

from __future__ import annotations

from loractl_registry.bom.components import NAMESPACE, dataset_ref
from loractl_registry.bom.subject import BomDataset, BomSubject
from loractl_registry.strict_json import as_list

Json = dict[str, object]


def model_card_of(subject: BomSubject) -> Json:
    """Return the model card of the version: what it does, what it is built on and from, and its shape."""
    facts = subject.version.facts
    parameters: Json = {"task": "text-generation", **_architecture(subject)}
    if subject.datasets:
        parameters["datasets"] = [{"ref": dataset_ref(each)} for each in subject.datasets]
    said = {
        "adapter": "lora",
        "rank": facts.rank,
        "alpha": facts.alpha,
        "modules": ",".join(facts.modules),
        "experts": facts.experts.value,
        "dtype": facts.dtype,
        "tensors": facts.tensor_count,
    }
    named = [{"name": f"{NAMESPACE}:{name}", "value": str(value)} for name, value in said.items()]
    return {"bom-ref": f"{subject.version.ref}/model-card", "modelParameters": parameters, "properties": named}


def data_of(dataset: BomDataset) -> list[Json]:
    """Return what a data component says of its data."""
    said: Json = {"type": "dataset", "name": dataset.name}
    if dataset.data_class is not None:
        said["classification"] = dataset.data_class
    return [said]


def _architecture(subject: BomSubject) -> Json:
    """Return what the config of the base calls its architecture; the adapter has none of its own."""
    if subject.base is None:
        return {}
    found: Json = {}
    family = subject.base.config.get("model_type")
    if isinstance(family, str) and family:
        found["architectureFamily"] = family
    architectures = as_list(subject.base.config.get("architectures")) or []
    if architectures and isinstance(architectures[0], str):
        found["modelArchitecture"] = architectures[0]
    return found
