"""Signatures over the files of a version, verified again wherever they count.

Verifying reads no file: a signature is over the digests of a manifest, and whoever asks has hashed the files, or will.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from loractl_registry._context import Context
from loractl_registry._store import file_signatures, versions
from loractl_registry._store.file_signatures import StoredSignature
from loractl_registry.attestations import FileSignatureRecord
from loractl_registry.ledger.chains import checked_chain, read_checkpoint, resumed_chain
from loractl_registry.ledger.standing import Standing, Standings
from loractl_registry.outcomes import Damage
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.signatures import (
    FileSignatureError,
    UnknownFileSignerError,
    WrongSignatureKindError,
    verify_manifest,
    verify_shipped_again,
)
from loractl_registry.trust import Account, Chain, MissingCheckpointError, PublicKey, TrustError

SHIPPED = "shipped"
"""Kind of a signature that came with the files; those that were made here have the kind of their signer."""


def signers_of(chain: Chain, *, may_have_been: bool) -> tuple[PublicKey | Account, ...]:
    """Return every key and account that is trusted, or with `may_have_been` ever was."""
    known: tuple[PublicKey | Account, ...] = (*chain.trust.keys, *chain.trust.accounts)
    return tuple(one for one in known if may_have_been or chain.trust.active(one.key_id) is not None)


def signatures_of(context: Context, ref: Ref | VersionRef) -> tuple[FileSignatureRecord, ...]:
    """Return the signatures over the files of `ref`; see `Registry.file_signatures`.

    Raises:
        NotFoundError: No such version.
        TrustError: The chain is not what was signed.
    """
    seen = read_checkpoint(context)
    with context.database.reading() as connection:
        version, chain = get_version(context, ref), resumed_chain(context, connection, seen)
        standing = Standings(chain).get(version.ref)
        if chain is None or standing is None:
            return ()
        return checked_signatures(context, connection, chain, standing, version)


def checked_signatures(
    context: Context, connection: sqlite3.Connection, chain: Chain, standing: Standing, version: AdapterVersion
) -> tuple[FileSignatureRecord, ...]:
    """Return every signature that a statement about `version` names, each verified against its manifest."""
    return tuple(_checked(context, connection, chain, standing.file_signatures, version))


def signature_objection(
    context: Context, connection: sqlite3.Connection, chain: Chain, standing: Standing, version: AdapterVersion
) -> str | None:
    """Return why a signature that was kept for `version` is not that any more, None if all are."""
    found = checked_signatures(context, connection, chain, standing, version)
    return next((one.problem for one in found if one.problem is not None), None)


def damaged_signatures(context: Context, found: Sequence[AdapterVersion]) -> Mapping[VersionRef, tuple[Damage, ...]]:
    """Return, for each of `found`, the signatures over its files that are not what was kept."""
    seen = read_checkpoint(context)
    damage: dict[VersionRef, tuple[Damage, ...]] = {}
    with context.database.reading() as connection:
        try:
            chain = checked_chain(context, connection, seen)
        except (TrustError, MissingCheckpointError) as error:
            broken = (Damage("the signed statements", "a chain that verifies", str(error)),)
            return {version.ref: broken for version in found}
        standings = Standings(chain)
        for version in found:
            standing = standings.get(version.ref)
            if chain is not None and standing is not None:
                checked = checked_signatures(context, connection, chain, standing, version)
                damage[version.ref] = tuple(
                    Damage(f"signature {one.digest[:19]}", "a signature of these files", one.problem)
                    for one in checked
                    if one.problem is not None
                )
    return damage


def _checked(
    context: Context, connection: sqlite3.Connection, chain: Chain, named: tuple[str, ...], version: AdapterVersion
) -> Iterator[FileSignatureRecord]:
    rows = file_signatures.select(connection, version.digest)
    for digest in named:
        row = rows.get(digest)
        if row is None or _digest_of(row.bundle) != digest:
            problem = f"the signature of its files {digest[:19]} is {'gone' if row is None else 'another'}"
            yield FileSignatureRecord(digest, "", "", None, (), is_verified=False, at=None, problem=problem)
            continue
        try:
            key_id = _key_of(context, connection, chain, row)
        except FileSignatureError as error:
            yield _of(row, chain, None, problem=str(error))
        else:
            yield _of(row, chain, key_id)


def _key_of(context: Context, connection: sqlite3.Connection, chain: Chain, row: StoredSignature) -> str | None:
    """Return the id of the key or account that made a signature, None if nobody here has it.

    Raises:
        FileSignatureError: It is not over these files, or a signature that was made here is by nobody.
    """
    known, signers = context.verified.signatures, signers_of(chain, may_have_been=True)
    place = (row.digest, row.content)
    if known.get(place) in {one.key_id for one in signers}:
        return known[place]
    manifest = versions.manifest_of(connection, row.content)
    if row.kind != SHIPPED:
        name = context.path_of(row.content).name
        known[place] = verify_manifest(manifest, row.bundle, signers, name=name).signer
        return known[place]
    try:
        known[place] = verify_shipped_again(manifest, row.bundle, signers).signer
    except (UnknownFileSignerError, WrongSignatureKindError):
        return None
    return known[place]


def _of(row: StoredSignature, chain: Chain, key_id: str | None, *, problem: str | None = None) -> FileSignatureRecord:
    grant = None if key_id is None else chain.trust.active(key_id)
    owner = next((one.identity for one in chain.trust.grants if one.key.key_id == key_id), None)
    return FileSignatureRecord(
        digest=row.digest,
        kind=row.kind,
        signer=key_id or row.signer,
        identity=owner,
        roles=() if grant is None else tuple(sorted(role.value for role in grant.roles)),
        is_verified=grant is not None,
        at=row.at,
        problem=problem,
    )


def _digest_of(bundle: bytes) -> str:
    return f"sha256:{hashlib.sha256(bundle).hexdigest()}"
