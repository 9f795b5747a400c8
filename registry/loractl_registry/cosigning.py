"""Signing the files of a version that is here already: a second person says that these are the bytes."""

from __future__ import annotations

from loractl_registry._context import Context
from loractl_registry._store import audit
from loractl_registry._store.audit import NewEvent
from loractl_registry.actors import parse_actor
from loractl_registry.attestations import FilesSigned
from loractl_registry.climbing import require_intact
from loractl_registry.ledger.errors import DisagreementError
from loractl_registry.ledger.file_signatures import checked_signatures
from loractl_registry.ledger.keeping import sign_once_more
from loractl_registry.ledger.pen import Pen, signed_writing
from loractl_registry.ledger.soundness import unsound
from loractl_registry.reading import get_version
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.refusals import StageError
from loractl_registry.signatures import prepare_signing
from loractl_registry.stages import Stage

_ENDED = (Stage.REJECTED, Stage.REVOKED)


def sign_files_of(context: Context, ref: Ref | VersionRef, *, actor: str) -> FilesSigned:
    """Sign the stored files of `ref` as the one who acts; see `Registry.sign_files`."""
    actor = parse_actor(actor)
    require_intact(context, get_version(context, ref))
    prepare_signing()
    with signed_writing(context, actor=actor) as pen:
        version, place = get_version(context, ref), pen.place()
        if version.stage in _ENDED:
            raise StageError("sign", version.ref, version.stage, "add a corrected version under the same name")
        assert pen.chain is not None  # noqa: S101  # `place` made it
        objection = unsound(context, pen.connection, pen.chain, pen.standings, version)
        if objection is not None:
            raise DisagreementError(version.ref, objection)
        signer = place["signer"]
        if (held := _held(pen, version, signer.key_id)) is not None:
            return FilesSigned(version, signer.identity, held, None, is_new=False)
        statement, signature = sign_once_more(pen, version)
        detail = {"statement": statement, "signer": signer.identity, "signature": signature}
        audit.append(pen.connection, NewEvent("adapter.sign", str(version.ref), actor, pen.at, detail=detail))
    return FilesSigned(version, signer.identity, signature, statement, is_new=True)


def _held(pen: Pen, version: AdapterVersion, key_id: str) -> str | None:
    """Return the signature over these files that the same key has made already."""
    standing = pen.standings.get(version.ref)
    if pen.chain is None or standing is None:
        return None
    found = checked_signatures(pen.context, pen.connection, pen.chain, standing, version)
    return next((one.digest for one in found if one.signer == key_id and one.is_verified), None)
