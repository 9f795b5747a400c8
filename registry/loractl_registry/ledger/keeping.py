"""What is kept and signed when a version is added: signatures over its files, and who brought it from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._store import file_signatures, versions
from loractl_registry._store.file_signatures import StoredSignature
from loractl_registry.ledger.chains import read_checkpoint, resumed_chain
from loractl_registry.ledger.file_signatures import SHIPPED, signers_of
from loractl_registry.ledger.pen import Pen
from loractl_registry.provenance import provenance_digest
from loractl_registry.records import AdapterVersion, Manifest, Provenance
from loractl_registry.refs import VersionRef
from loractl_registry.signatures import examine_shipped, find_shipped, parse_bundle, sign_manifest
from loractl_registry.trust import (
    Addition,
    AdditionStatement,
    FileSigning,
    FileSigningStatement,
    signer_id,
    subject_of,
)


@dataclass(frozen=True, slots=True)
class Shipped:
    """A signature that came with the files, which it is over; `signer` is nobody here if `is_known` is false."""

    bundle: bytes
    digest: str
    signer: str
    is_known: bool


def shipped_with(context: Context, folder: Path, manifest: Manifest) -> Shipped | None:
    """Return the signature that lies beside the files in `folder`, None if there is none.

    Raises:
        FileSignatureError: It is malformed, does not verify, or is over other files than those in `folder`.
        TrustError: The chain is not what was signed, so nobody knows whose keys are trusted.
    """
    found = find_shipped(folder)
    if found is None:
        return None
    seen = read_checkpoint(context)
    with context.database.reading() as connection:
        chain = resumed_chain(context, connection, seen)
    trusted = () if chain is None else signers_of(chain, may_have_been=False)
    signed = examine_shipped(folder, manifest, found, trusted)
    bundle = found.bundle
    signer = signed.signer if signed is not None else bundle.hint or f"by {bundle.kind}"
    return Shipped(bundle.data, bundle.digest, signer, signed is not None)


def sign_addition(
    pen: Pen, ref: VersionRef, manifest: Manifest, provenance: Provenance, shipped: Sequence[Shipped]
) -> tuple[str, ...]:
    """Sign the files of a version and that it was added; return the digest of the statement and of each signature.

    The content must be in its table, and nothing may have been said of `ref` before.

    Raises:
        TrustError: The one who acts may not add.
        SigningUnavailableError: The library that signs files is not installed.
    """
    place, kept = pen.place(), [_own_signature(pen, manifest)]
    kept += [StoredSignature(manifest.digest, one.digest, SHIPPED, one.signer, one.bundle, pen.at) for one in shipped]
    for one in kept:
        file_signatures.append(pen.connection, one)
    digests = tuple(one.digest for one in kept)
    addition = Addition(
        **place,
        policy=pen.policy.digest,
        added_by=pen.actor,
        provenance=provenance_digest(provenance),
        signatures=digests,
    )
    statement = AdditionStatement(subject=subject_of(ref, manifest.digest), predicate=addition)
    return (pen.sign(statement), *digests)


def sign_once_more(pen: Pen, version: AdapterVersion) -> tuple[str, str]:
    """Sign the files of a version that is here, and that they were signed; return both digests, the statement's first.

    What is signed are the digests of the manifest, so whoever asks has compared the files with it.

    Raises:
        TrustError: The one who acts may not.
        SigningUnavailableError: The library that signs files is not installed.
    """
    place = pen.place()
    own = _own_signature(pen, versions.manifest_of(pen.connection, version.digest))
    file_signatures.append(pen.connection, own)
    signing = FileSigning(**place, policy=pen.policy.digest, signature=own.digest)
    statement = FileSigningStatement(subject=subject_of(version.ref, version.digest), predicate=signing)
    return pen.sign(statement), own.digest


def _own_signature(pen: Pen, manifest: Manifest) -> StoredSignature:
    key = pen.acting.key
    assert key is not None  # noqa: S101  # `place` was asked before
    own = parse_bundle(sign_manifest(manifest, key, name=pen.context.path_of(manifest.digest).name))
    return StoredSignature(manifest.digest, own.digest, own.kind.value, signer_id(key), own.data, pen.at)
