"""What signing and reading signed statements refuse."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from loractl_registry.errors import ConflictError, DeniedError, NotFoundError, UsageError
from loractl_registry.refs import VersionRef


class NoIdentityError(NotFoundError):
    """A signature is needed, and there is no private key that could make it."""

    code = "registry.no_identity"

    def __init__(self, folder: Path, *, has_chain: bool) -> None:
        way_out = "loractl identity create NAME"
        if has_chain:
            way_out += ", then have an operator run: loractl identity trust NAME FILE --role ROLE"
        super().__init__(f"cannot sign: there is no private key in {folder}", hint=way_out)
        self.folder = folder


class NoSuchIdentityError(NotFoundError):
    """The identity that was named has no key here, or none that is trusted."""

    code = "registry.no_such_identity"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        there = ", ".join(known) or "none"
        super().__init__(f"no identity {name!r}; there is: {there}", hint="see them: loractl identity list")
        self.name = name


class AmbiguousIdentityError(UsageError):
    """Several private keys could sign, and nobody said which."""

    code = "registry.ambiguous_identity"

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__(
            f"cannot choose who signs: {folder} holds the keys of {', '.join(names)}",
            hint=f"say which: LORACTL_IDENTITY={names[0]}",
        )
        self.names = tuple(names)


class UntrustedIdentityError(DeniedError):
    """The key that would sign is not trusted in this home."""

    code = "registry.untrusted_identity"

    def __init__(self, name: str, path: Path, *, is_revoked: bool) -> None:
        because = "was revoked" if is_revoked else "is not trusted here"
        way_out = (
            "revoked is for good: create another identity and have it trusted"
            if is_revoked
            else f"have an operator run: loractl identity trust {name} {path}.pub --role ROLE"
        )
        super().__init__(f"cannot sign as {name}: the key in {path} {because}", hint=way_out)
        self.name = name


class IdentityExistsError(ConflictError):
    """There is a private key of this name already."""

    code = "registry.identity_exists"

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(f"identity {name} has a key in {path}, and no key is overwritten", hint="choose another name")
        self.name = name


class DisagreementError(DeniedError):
    """The row of a version says what no signed statement says."""

    code = "registry.disagreement"

    def __init__(self, ref: VersionRef, objection: str) -> None:
        super().__init__(
            f"refused {ref}: {objection}",
            hint=f"restore the newest backup, or end it: loractl revoke {ref} --reason TEXT",
        )
        self.ref = ref


class BaseDisagreementError(DeniedError):
    """The row of a base says what no signed statement says."""

    code = "registry.base_disagreement"

    def __init__(self, name: str, objection: str) -> None:
        super().__init__(
            f"refused base {name}: {objection}",
            hint=f"restore the newest backup, or have an operator look and sign: loractl base add {name} SOURCE",
        )
        self.name = name


class BaseDeniedError(DeniedError):
    """The policy does not let the one who acts admit a base."""

    code = "registry.base_denied"

    def __init__(self, name: str, actor: str, because: str, way_out: str) -> None:
        super().__init__(f"{actor} cannot admit base {name}: {because}", hint=way_out)
        self.name, self.actor = name, actor


class QuarantinedError(DeniedError):
    """The newest scan of a version failed, so that nothing may build on it."""

    code = "registry.quarantined"

    def __init__(self, ref: VersionRef, digest: str) -> None:
        super().__init__(
            f"{ref} is in quarantine: its newest scan failed ({digest[:19]})",
            hint=f"see why: loractl evidence list {ref}; a scan that passes lifts it: loractl evidence scan {ref}",
        )
        self.ref, self.digest = ref, digest


class EngineDeniedError(DeniedError):
    """The policy does not let the installed engine serve."""

    code = "registry.engine_denied"

    def __init__(self, engine: str, because: str) -> None:
        super().__init__(f"refusing to serve with engine {engine}: {because}", hint="install an engine that it names")
        self.engine = engine


class StandingExpiredError(DeniedError):
    """What was signed for the stage that a climb would build on holds no longer."""

    code = "registry.standing_expired"

    def __init__(self, ref: VersionRef, end: datetime) -> None:
        super().__init__(
            f"cannot build on what was signed for {ref}: it expired on {end:%Y-%m-%dT%H:%M:%SZ}",
            hint=f"have it judged again: loractl demote {ref} --reason TEXT, then promote it",
        )
        self.ref, self.end = ref, end
