"""The registry as a library: one open home and everything that can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from loractl_registry import homes, reading
from loractl_registry._context import Context, SigningChoice
from loractl_registry.attesting import Attested
from loractl_registry.clock import utc_now
from loractl_registry.facets import Facets
from loractl_registry.governing import Governing
from loractl_registry.progress import SILENT, Progress
from loractl_registry.provenance import NOTHING_SAID, ProvenanceInput
from loractl_registry.records import AdapterVersion, AuditEvent, Base, Manifest, ServingSnapshot, VersionSummary
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.stages import Stage, Verb

if TYPE_CHECKING:
    from loractl_registry.outcomes import (
        AddedBase,
        AddedVersion,
        Approvals,
        Approved,
        BaseVerification,
        ExportReport,
        Finding,
        FsckReport,
        GcReport,
        Promotion,
        StageChange,
        VersionDiff,
        VersionVerification,
    )
    from loractl_registry.preflight import PreflightReport


class Registry(Facets, Governing, Attested):
    """One open home. Safe to share between threads, which then take turns; close it, or use it in a ``with``.

    Every verb is one transaction with one audit event per change. Everything raised on purpose is a `RegistryError`.
    Operations are imported when they are called: together they take longer to import than a list takes to read.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        must_exist: bool = False,
        identity: str | None = None,
        passphrase: Callable[[], str] | None = None,
        token: Callable[[], str] | None = None,
        witness: Path | None = None,
        busy_timeout_s: float = 5.0,
    ) -> Registry:
        """Open the registry in `home`, and create or migrate it where needed.

        Args:
            home: Folder of ``registry.db`` and ``store/``; created with mode 0700.
            clock: Where every time in the registry comes from; must return aware times.
            must_exist: Refuse a home that holds no registry instead of creating one.
            identity: Whose private key, or which account without one, signs; default the only key in the home.
            passphrase: Asked where that key is encrypted.
            token: Asked where an account signs: its OpenID token.
            witness: File that keeps the checkpoint too, out of reach of who can write the home; see `choose_witness`.
            busy_timeout_s: How long to wait for another process that is writing.

        Raises:
            HomeNotFoundError: `must_exist`, and there is no registry.
            NewerDatabaseError, DamagedDatabaseError, LockedError, ReadOnlyError, DiskFullError: As their names say.
        """
        signing = SigningChoice(identity, passphrase, token)
        return cls(
            homes.open_home(
                home, clock=clock, must_exist=must_exist, signing=signing, witness=witness, timeout_s=busy_timeout_s
            )
        )

    def close(self) -> None:
        """Close the database; safe to repeat."""
        self._context.database.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def home(self) -> Path:
        """The folder that this registry lives in."""
        return self._context.home

    # Bases

    def add_base(
        self,
        name: str,
        source: str,
        *,
        actor: str,
        licence: str | None = None,
        revision: str | None = None,
        progress: Progress | None = None,
    ) -> AddedBase:
        """Admit a base model by the digests of its config, tokenizer and weights; its files stay where they are.

        The same files under the same name again are a no-op, or a move if they are elsewhere now.

        Args:
            name: Name that ``serve`` and clients use.
            source: A folder, or ``hf:OWNER/REPO[@REVISION]``.
            actor: Who admits it.
            licence: SPDX identifier; default what the model card says.
            revision: Hub revision, where `source` names none.
            progress: Told about downloading and hashing.

        Raises:
            NameTakenError: An adapter has the name.
            BaseDiffersError: Other files are admitted under it.
            RegistryError: A subclass that says what is wrong with the files.
        """
        from loractl_registry import bases

        return bases.add_base(
            self._context, name, source, actor=actor, licence=licence, revision=revision, progress=progress or SILENT
        )

    def bases(self) -> tuple[Base, ...]:
        """Return every admitted base, sorted by name."""
        return reading.list_bases(self._context)

    def base(self, name: str) -> Base:
        """Return the admitted base `name`, or raise `BaseNotFoundError`."""
        return reading.get_base(self._context, name)

    def verify_base(self, name: str, *, full: bool, progress: Progress | None = None) -> BaseVerification:
        """Check the files of a base against its manifest.

        Without `full`, a file whose stat is what it was when it was last hashed is not hashed again.
        """
        from loractl_registry import bases

        return bases.verify_base(self._context, name, is_full=full, progress=progress or SILENT)

    def remove_base(self, name: str, *, actor: str) -> Base:
        """Withdraw a base; its files are not touched.

        Raises:
            BaseNotFoundError: There is none.
            BaseInUseError: A version that is neither rejected nor revoked belongs to it.
        """
        from loractl_registry import bases

        return bases.remove_base(self._context, name, actor=actor)

    # Adapters

    def add(
        self,
        name: str,
        source: str,
        *,
        actor: str,
        base: str | None = None,
        provenance: ProvenanceInput = NOTHING_SAID,
        progress: Progress | None = None,
    ) -> AddedVersion:
        """Verify a PEFT folder, store its files, and make it the next version of `name`, a draft.

        The same bytes under the same name again return the version that is there; a base that it lacked is bound.

        Args:
            name: Name of the adapter, new or not.
            source: A folder, or ``hf:OWNER/REPO[@REVISION]``.
            actor: Who adds it.
            base: Name of the admitted base it belongs to; default: what it declares, else the only one.
            provenance: What the files do not say.
            progress: Told about downloading and hashing.

        Raises:
            NameTakenError: A base has the name.
            BaseNotFoundError: `base` is not admitted.
            BoundElsewhereError: The same bytes belong to another base.
            RegistryError: A subclass that says what is wrong with the files.
        """
        from loractl_registry import adding

        return adding.add(
            self._context, name, source, actor=actor, base=base, said=provenance, progress=progress or SILENT
        )

    def versions(
        self, *, name: str | None = None, stage: Stage | None = None, base: str | None = None
    ) -> tuple[AdapterVersion, ...]:
        """Return the versions that match every given filter, sorted by ref."""
        return reading.list_versions(self._context, name=name, stage=stage, base=base)

    def summaries(
        self, *, name: str | None = None, stage: Stage | None = None, base: str | None = None
    ) -> list[VersionSummary]:
        """Return what a list shows of the versions that match every given filter, sorted by ref."""
        return reading.list_summaries(self._context, name=name, stage=stage, base=base)

    def version(self, ref: Ref | VersionRef) -> AdapterVersion:
        """Return the version that `ref` means; a bare name means the live one. Raises a `NotFoundError`."""
        return reading.get_version(self._context, ref)

    def manifest(self, ref: Ref | VersionRef) -> Manifest:
        """Return the files of a version, with their sizes and digests."""
        return reading.get_manifest(self._context, ref)

    def preflight(self, ref: Ref | VersionRef) -> PreflightReport:
        """Run preflight on names, places, shapes and ranks, reading no value. Raises a `DeniedError` where it fails."""
        from loractl_registry import climbing

        return climbing.preview(self._context, reading.get_version(self._context, ref))

    def promote(self, ref: Ref, *, actor: str, to: Stage | None = None, reason: str | None = None) -> Promotion:
        """Climb one rung, or up to `to`. A stage already held is a no-op with an empty `entered`.

        Entering candidate hashes the stored files and runs preflight against the base; entering live hashes them and
        demotes the version that was live to approved. Each rung is one audit event.

        Raises:
            NotFoundError: No such version.
            StageError: No climb leads there.
            DeniedError: Policy, base, bytes or preflight said no; the subclass says which.
        """
        from loractl_registry import lifecycle

        return lifecycle.promote(self._context, ref, actor=actor, to=to, reason=reason)

    def approve(self, ref: Ref | VersionRef, *, actor: str, reason: str) -> Approved:
        """Sign that `actor` is for the next servable rung of `ref`. Approving twice returns the first approval.

        Raises:
            StageError: No such rung is next.
            SelfApprovalError: `actor` added it, and the policy asks for a second pair of eyes.
            DeniedError: The files, the row or the role of the one who acts says no.
        """
        from loractl_registry import approving

        return approving.approve(self._context, ref, actor=actor, reason=reason)

    def approvals(self, ref: Ref | VersionRef) -> Approvals:
        """Return the signed approvals of `ref`, and how many the policy asks for on its way to the next rung."""
        from loractl_registry import approving

        return approving.approvals(self._context, ref)

    def demote(self, ref: Ref, *, actor: str, reason: str) -> StageChange:
        """Take one step down: live to approved, approved to candidate, candidate to draft."""
        from loractl_registry import lifecycle

        return lifecycle.step_down(self._context, ref, Verb.DEMOTE, actor=actor, reason=reason)

    def reject(self, ref: Ref, *, actor: str, reason: str) -> StageChange:
        """Turn a candidate down for good. Rejecting twice is a no-op."""
        from loractl_registry import lifecycle

        return lifecycle.step_down(self._context, ref, Verb.REJECT, actor=actor, reason=reason)

    def retire(self, ref: Ref, *, actor: str, reason: str) -> StageChange:
        """Take an approved or live version out of service; it may be promoted again. Twice is a no-op."""
        from loractl_registry import lifecycle

        return lifecycle.step_down(self._context, ref, Verb.RETIRE, actor=actor, reason=reason)

    def revoke(self, ref: Ref, *, actor: str, reason: str) -> StageChange:
        """Make sure that a version is never served again, from whatever stage. Revoking twice is a no-op."""
        from loractl_registry import lifecycle

        return lifecycle.step_down(self._context, ref, Verb.REVOKE, actor=actor, reason=reason)

    def rollback(self, name: str, *, actor: str, reason: str | None = None) -> Promotion:
        """Make the newest earlier live version that is still approved live again.

        Works also when nothing is live now. Twice goes back twice.

        Raises:
            AdapterNotFoundError: No such name.
            NothingToRollBackError: No earlier live version is approved.
            DamagedFilesError: Its stored files no longer match.
        """
        from loractl_registry import lifecycle

        return lifecycle.rollback(self._context, name, actor=actor, reason=reason)

    def history(self, name: str | None = None, *, at: datetime | None = None) -> tuple[AuditEvent, ...]:
        """Return the audit events of an adapter or a base, or all, oldest first, up to `at`."""
        return reading.list_events(self._context, name, until=at)

    def live_at(self, at: datetime) -> tuple[VersionRef, ...]:
        """Return the versions that were live at `at`, sorted."""
        return reading.live_at(self._context, at)

    def diff(self, a: Ref | VersionRef, b: Ref | VersionRef) -> VersionDiff:
        """Say what differs between two versions: facts, provenance, files, and tensors by name, shape and bytes."""
        from loractl_registry import checking

        return checking.diff(self._context, a, b)

    # The home

    def verify(self, refs: Sequence[Ref | VersionRef] = ()) -> tuple[VersionVerification, ...]:
        """Hash the stored files of `refs`, or of every version, and say which are still what was added.

        A version whose bytes gc has collected is intact and says when.
        """
        from loractl_registry import checking

        return checking.verify(self._context, refs)

    def fsck(self, *, repair: bool, actor: str) -> FsckReport:
        """Look for everything that may be wrong in the home.

        With `repair`, orphans and leftovers of killed processes are removed and modes restored; what is damaged is
        always reported, and adding the original files again restores it.
        """
        from loractl_registry import repair as repairing  # it compares schemas, which nothing else does

        return repairing.fsck(self._context, repair=repair, actor=actor)

    def check_database(self) -> tuple[Finding, ...]:
        """Check the database alone: its integrity, its references, and its schema against the declaration."""
        from loractl_registry import repair as repairing  # it compares schemas, which nothing else does

        return repairing.check_database(self._context)

    def gc(self, *, dry_run: bool, actor: str = "loractl") -> GcReport:
        """Remove the stored bytes that only rejected and revoked versions refer to; their history stays."""
        from loractl_registry import collecting

        return collecting.gc(self._context, is_dry_run=dry_run, actor=actor)

    def backup(self, file: Path) -> Path:
        """Copy the database to `file`, also while others write. The store is not in it: it can be copied at any time.

        Raises:
            FileExistsRefusedError: `file` is there.
        """
        from loractl_registry import collecting

        return collecting.backup(self._context, file)

    def export(self, refs: Sequence[Ref | VersionRef], file: Path) -> ExportReport:
        """Write one archive of `refs` with their files, manifests and provenance; equal refs give equal bytes.

        Raises:
            FileExistsRefusedError: `file` is there.
            StageError: One of them is revoked.
            DamagedFilesError: Stored files no longer match.
        """
        from loractl_registry import archive  # pydantic, which other operations do without

        return archive.export(self._context, refs, file)

    def import_archive(self, file: Path, *, actor: str) -> tuple[AddedVersion, ...]:
        """Store every version of an archive as a draft, or none of them.

        The same bytes under the same name return the version that is there. A version belongs to the admitted base
        with the digest that the archive names, if there is one.

        Raises:
            ArchiveError: Anything in it is not as export writes it.
            NameTakenError: A base has one of the names.
        """
        from loractl_registry import archive  # pydantic, which other operations do without

        return archive.import_archive(self._context, file, actor=actor)

    # Serving

    def snapshot(self, base: str) -> ServingSnapshot:
        """Return what may answer on `base` by what was signed, read in one transaction. Raises `BaseNotFoundError`."""
        from loractl_registry import serving  # cryptography, which listing does without

        return serving.snapshot(self._context, base)

    def record_refusal(self, ref: VersionRef, *, actor: str, reason: str, detail: Mapping[str, object]) -> None:
        """Write down that a server refused to use `ref`: one audit event, ``adapter.refused``."""
        from loractl_registry import lifecycle

        lifecycle.record_refusal(self._context, ref, actor=actor, reason=reason, detail=dict(detail))

    def changes(self) -> int:
        """Return a number that differs whenever anything was committed, here or elsewhere; takes microseconds."""
        return self._context.database.changes()
