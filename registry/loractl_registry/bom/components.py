"""The components of a bill of materials, as the library has them: the adapter, its files, its base, its data sets."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportUnknownMemberType=false
# pyright: reportAttributeAccessIssue=false
# The library's class decorators hide its constructors from pyright; mypy sees them, and checks this module.

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalContact
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6

from loractl_registry.bom.subject import BomAttachment, BomDataset, BomSubject
from loractl_registry.records import AdapterVersion, Base, Manifest

NAMESPACE = "loractl"
"""What the names of our properties begin with."""

# The library makes a random one otherwise.
_NO_SERIAL = uuid.UUID(int=0)
_HUB = "https://huggingface.co/"


def library_json(subject: BomSubject) -> str:
    """Return the bill of `subject` as far as the library can write it."""
    adapter, others = _adapter_of(subject), [_dataset_of(each) for each in subject.datasets]
    if subject.base is not None:
        others.append(_base_of(subject.base))
    metadata = BomMetaData(timestamp=subject.at, component=adapter)
    tool = Component(name="loractl", version=subject.loractl_version, type=ComponentType.APPLICATION)
    metadata.tools.components.add(tool)
    bom = Bom(metadata=metadata, components=others, serial_number=_NO_SERIAL)
    bom.register_dependency(adapter, others)
    return JsonV1Dot6(bom).output_as_string()


def dataset_ref(dataset: BomDataset) -> str:
    """Return what the bill calls a data set, whose name may be any text."""
    return f"dataset:{hashlib.sha256(dataset.name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _adapter_of(subject: BomSubject) -> Component:
    """Return the version; its hash is the digest of its manifest, and each of its files is a component inside."""
    version = subject.version
    author = version.provenance.author
    return Component(
        bom_ref=str(version.ref),
        name=version.ref.name,
        version=str(version.ref.number),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[_hash(version.digest)],
        licenses=_licences(version.provenance.licence),
        authors=[] if author is None else [OrganizationalContact(name=author)],
        external_references=[*_origin(version.provenance.source), *map(_attached, subject.attachments)],
        properties=_properties(_said_of(version)),
        components=_files(subject.manifest, str(version.ref)),
    )


def _base_of(base: Base) -> Component:
    """Return the base; its hash is the digest of its manifest."""
    said = {"digest": base.digest, "source": base.source, "admitted_by": base.added_by, "files": base.file_count}
    return Component(
        bom_ref=f"base:{base.name}",
        name=base.name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[_hash(base.digest)],
        licenses=_licences(base.licence),
        external_references=_origin(base.source),
        properties=_properties(said),
    )


def _dataset_of(dataset: BomDataset) -> Component:
    """Return a data set."""
    return Component(
        bom_ref=dataset_ref(dataset),
        name=dataset.name,
        type=ComponentType.DATA,
        hashes=[] if dataset.digest is None else [_hash(dataset.digest)],
        licenses=_licences(dataset.licence),
    )


def _properties(said: Mapping[str, object]) -> list[Property]:
    """Return what is known as properties; what is not is left out."""
    return [
        Property(name=f"{NAMESPACE}:{name}", value=_text(value)) for name, value in said.items() if value is not None
    ]


def _said_of(version: AdapterVersion) -> dict[str, object]:
    provenance = version.provenance
    extra = {f"provenance:{name}": value for name, value in provenance.extra.items()}
    return {
        **extra,
        "digest": version.digest,
        "stage": version.stage.value,
        "added_at": version.added_at.isoformat(),
        "added_by": version.added_by,
        "base_digest": version.base_digest,
        "declared_base": version.facts.declared_base,
        "source": provenance.source,
        "commit": provenance.commit,
        "code_commit": provenance.code_commit,
        "note": provenance.note,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=True)


def _files(manifest: Manifest, ref: str) -> list[Component]:
    return [
        Component(
            bom_ref=f"{ref}/{entry.path}",
            name=entry.path,
            type=ComponentType.FILE,
            hashes=[_hash(entry.digest)],
            properties=_properties({"size_bytes": entry.size_bytes}),
        )
        for entry in manifest.files
    ]


def _hash(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))


def _licences(said: str | None) -> Iterable[License]:
    return [] if said is None else [LicenseFactory().make_from_string(said)]


def _origin(source: str) -> list[ExternalReference]:
    """Return where a Hub source lies; a path on somebody's machine is no reference for others."""
    repository, _, commit = source.removeprefix("hf:").partition("@")
    if not source.startswith("hf:"):
        return []
    url = XsUri(_HUB + repository + (f"/tree/{commit}" if commit else ""))
    return [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=url)]


def _attached(attachment: BomAttachment) -> ExternalReference:
    return ExternalReference(
        type=ExternalReferenceType(attachment.kind.value),
        url=XsUri(f"urn:{NAMESPACE}:{attachment.digest}"),
        comment=attachment.summary,
        hashes=[_hash(attachment.digest)],
    )
