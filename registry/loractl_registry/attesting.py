"""The part of an open registry that is about what people have signed: identities, evidence, signatures of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loractl_registry._context import Context
from loractl_registry.refs import Ref, VersionRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loractl_registry.attestations import FileSignatureRecord, FilesSigned
    from loractl_registry.evidence import EvidenceShelf
    from loractl_registry.identities import Identities
    from loractl_registry.outcomes import VersionVerification
    from loractl_registry.records import AdapterVersion


class Attested:
    """What `Registry` offers beside its verbs. Imported when it is asked for, because it imports cryptography."""

    _context: Context

    @property
    def identities(self) -> Identities:
        """Who may sign here, and the checkpoint of what was signed."""
        from loractl_registry.identities import Identities

        return Identities(self._context)

    @property
    def evidence(self) -> EvidenceShelf:
        """What was found out about versions: evaluations, cards, scans, reviews and proofs of effect."""
        from loractl_registry.evidence import EvidenceShelf

        return EvidenceShelf(self._context)

    def verify_bytes(self, versions: Sequence[AdapterVersion]) -> tuple[VersionVerification, ...]:
        """Hash the stored files of `versions`, and say which are still what was added; no signature is looked at.

        For who has them from a `ServingSnapshot`, which has verified their signatures over these very digests.
        """
        from loractl_registry import checking

        return checking.verify_bytes(self._context, versions)

    def file_signatures(self, ref: Ref | VersionRef) -> tuple[FileSignatureRecord, ...]:
        """Return the signatures over the files of `ref`, each verified again."""
        from loractl_registry.ledger.file_signatures import signatures_of

        return signatures_of(self._context, ref)

    def sign_files(self, ref: Ref | VersionRef, *, actor: str) -> FilesSigned:
        """Sign the stored files of `ref` as the one who acts, for a policy that asks for signatures of several people.

        The files are hashed first. Signing twice with the same key changes nothing and returns the first signature.

        Raises:
            NotFoundError: No such version.
            DamagedFilesError: The files are not the ones that were added.
            StageError: It was rejected or revoked.
            DisagreementError: Its row, or a signature over its files, is not what was signed.
            TrustError: The one who acts may not sign.
            SigningUnavailableError: The library that signs files is not installed.
        """
        from loractl_registry.cosigning import sign_files_of

        return sign_files_of(self._context, ref, actor=actor)
