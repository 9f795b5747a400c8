"""What the registry's operations refuse, one class a reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from loractl_registry.errors import ConflictError, DeniedError, NotFoundError, UsageError
from loractl_registry.outcomes import Damage
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.stages import Stage


class VersionNotFoundError(NotFoundError):
    """No such version."""

    code = "registry.version_not_found"

    def __init__(self, ref: Ref | VersionRef) -> None:
        super().__init__(f"no version {ref}", hint=f"see what there is: loractl list --name {ref.name}")
        self.ref = ref


class AdapterNotFoundError(NotFoundError):
    """No version of any number has this name."""

    code = "registry.adapter_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"no adapter or base {name!r}", hint="see what there is: loractl list")
        self.name = name


class NotLiveError(NotFoundError):
    """A bare name was used and no version of it is live."""

    code = "registry.not_live"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no version of {name} is live, and a bare name means the live one",
            hint=f"write {name}@NUMBER; see them with: loractl list --name {name}",
        )
        self.name = name


class BaseNotFoundError(NotFoundError):
    """No base of this name is admitted."""

    code = "registry.base_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"no base {name!r}", hint="see the admitted ones: loractl base list")
        self.name = name


class NothingToRollBackError(NotFoundError):
    """No earlier live version is still approved."""

    code = "registry.nothing_to_roll_back"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"cannot roll back {name}: no version that was live earlier is still approved",
            hint=f"choose one yourself: loractl promote {name}@NUMBER --to live",
        )
        self.name = name


class StageError(DeniedError):
    """The verb does not lead anywhere from the stage of the version."""

    code = "registry.stage"

    def __init__(self, verb: str, ref: VersionRef, stage: Stage, way_out: str) -> None:
        super().__init__(f"cannot {verb} {ref}: it is {stage}", hint=way_out)
        self.verb, self.ref, self.stage = verb, ref, stage


class PolicyDeniedError(DeniedError):
    """The policy does not allow this actor to enter that rung."""

    code = "registry.policy_denied"

    def __init__(self, ref: VersionRef, to: Stage, actor: str, because: str, way_out: str) -> None:
        super().__init__(f"cannot promote {ref} to {to}: {because}", hint=way_out)
        self.ref, self.to, self.actor = ref, to, actor


class SelfApprovalError(DeniedError):
    """The approver also added the version, which the four-eyes rule of the policy forbids."""

    code = "registry.self_approval"

    def __init__(self, ref: VersionRef, identity: str) -> None:
        super().__init__(
            f"cannot approve {ref}: {identity} added it, and the policy asks for a second pair of eyes",
            hint=f"ask another reviewer to run: loractl approve {ref} --reason TEXT",
        )
        self.ref, self.identity = ref, identity


class RevokedBytesError(DeniedError):
    """The same bytes were revoked under another ref."""

    code = "registry.revoked_bytes"

    def __init__(self, ref: VersionRef, revoked: VersionRef) -> None:
        super().__init__(
            f"cannot promote {ref}: its bytes were revoked as {revoked}",
            hint=f"revoked is for good; see why with: loractl history {revoked.name}",
        )
        self.ref, self.revoked = ref, revoked


class DamagedFilesError(DeniedError):
    """The stored files are not the ones that were added."""

    code = "registry.damaged_files"

    def __init__(self, ref: VersionRef, damaged: Sequence[Damage]) -> None:
        first = damaged[0]
        super().__init__(
            f"the stored files of {ref} no longer match their digests:"
            f" {first.path} should be {first.expected} and is {first.found}",
            hint=f"add the original files again, which restores them: loractl add {ref.name} SOURCE",
        )
        self.ref, self.damaged = ref, tuple(damaged)


class CollectedError(NotFoundError):
    """The bytes of the version were removed by gc."""

    code = "registry.collected"

    def __init__(self, ref: VersionRef, at: datetime) -> None:
        super().__init__(
            f"the files of {ref} were collected on {at:%Y-%m-%d}, after it was rejected or revoked",
            hint="add the original files under a new name, if you have them",
        )
        self.ref, self.at = ref, at


class NoBaseError(DeniedError):
    """Nobody has said which base the version belongs to."""

    code = "registry.no_base"

    def __init__(self, ref: VersionRef, declared: str | None, admitted: Sequence[str]) -> None:
        said = f"it declares {declared!r}, which is not admitted" if declared else "it declares none"
        way_out = (
            f"say which: loractl add {ref.name} SOURCE --base {'|'.join(admitted)}"
            if admitted
            else "admit it first: loractl base add NAME SOURCE"
        )
        super().__init__(f"cannot promote {ref}: its base is unknown; {said}", hint=way_out)
        self.ref = ref


class BaseGoneError(DeniedError):
    """The base that the version was bound to is no longer admitted."""

    code = "registry.base_gone"

    def __init__(self, ref: VersionRef, base: str, digest: str) -> None:
        super().__init__(
            f"cannot promote {ref}: its base {base} ({digest[:19]}) is no longer admitted",
            hint="admit the same files again and add the adapter under a new name",
        )
        self.ref, self.base = ref, base


class NameTakenError(ConflictError):
    """An adapter may not have the name of a base, nor a base that of an adapter."""

    code = "registry.name_taken"

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(f"the name {name} belongs to {owner}", hint="choose another name")
        self.name = name


class BaseDiffersError(ConflictError):
    """Another base, or the same base with other bytes, is there under this name."""

    code = "registry.base_differs"

    def __init__(self, name: str, held: str, offered: str) -> None:
        super().__init__(
            f"base {name} is admitted as {held[:19]} and these files are {offered[:19]}",
            hint="admit them under another name, such as one that ends in a version",
        )
        self.name = name


class BoundElsewhereError(ConflictError):
    """The version belongs to another base already."""

    code = "registry.bound_elsewhere"

    def __init__(self, ref: VersionRef, held: str, offered: str) -> None:
        super().__init__(
            f"{ref} holds the same bytes and belongs to base {held}, not {offered}",
            hint="add them under another name to bind them to another base",
        )
        self.ref = ref


class BaseInUseError(ConflictError):
    """Versions that may still be promoted or served belong to the base."""

    code = "registry.base_in_use"

    def __init__(self, name: str, refs: Sequence[VersionRef]) -> None:
        shown = ", ".join(str(ref) for ref in refs[:3]) + (f" and {len(refs) - 3} more" if len(refs) > 3 else "")
        super().__init__(f"cannot remove base {name}: {shown} belong to it", hint="revoke or reject them first")
        self.name, self.refs = name, tuple(refs)


class FileExistsRefusedError(ConflictError):
    """The file to write is there already."""

    code = "registry.file_exists"

    def __init__(self, file: object) -> None:
        super().__init__(f"{file} exists and is not overwritten", hint="choose another file name")


class ProvenanceError(UsageError):
    """What was said about where a version comes from is malformed."""

    code = "registry.provenance"
