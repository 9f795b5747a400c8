"""The policy of a home: where it comes from, whether it holds together, whether its tests pass, and why it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loractl_registry._context import Context
from loractl_registry._files import written_beside
from loractl_registry.errors import NotFoundError
from loractl_registry.home_errors import os_errors_named
from loractl_registry.policies import (
    CASES_FILE,
    POLICY_FILE,
    CaseResult,
    Policy,
    Problem,
    parse_cases,
    parse_policy,
    preset_text,
    run_cases,
)
from loractl_registry.policies.errors import PolicyFileError
from loractl_registry.policies.toml_text import MAX_BYTES
from loractl_registry.refs import Ref, VersionRef
from loractl_registry.stages import Stage
from loractl_registry.trust._small_files import read_small

if TYPE_CHECKING:
    from loractl_registry.explaining import Explanation

DEFAULT_PRESET = "solo"


class CasesNotFoundError(NotFoundError):
    """There are no tests beside the policy."""

    code = "registry.policy_cases_not_found"

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"no tests of the policy: there is no {file}",
            hint='write a [[case]] with a request and expect = "allow" or "deny" into it',
        )
        self.file = file


@dataclass(frozen=True, slots=True)
class PolicyText:
    """A policy as it is written.

    Attributes:
        file: Where it lies; None for the preset that holds where there is no file.
    """

    file: Path | None
    data: bytes

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"preset {DEFAULT_PRESET}" if self.file is None else str(self.file)


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """Whether a policy can be used.

    Attributes:
        policy: None if it cannot.
        problems: Why not, in the order of the lines.
    """

    name: str
    policy: Policy | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyTests:
    """How the tests beside a policy came out."""

    name: str
    cases_file: Path
    policy: Policy
    results: tuple[CaseResult, ...]

    @property
    def failed(self) -> Sequence[CaseResult]:
        """Those that did not come out as they must."""
        return [one for one in self.results if not one.has_passed]


class HomePolicies:
    """The policy of one open home, and files that may become it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def text(self, file: Path | None = None) -> PolicyText:
        """Return `file`, else the policy of the home, else the preset that holds without one.

        Raises:
            RegistryError: The operating system refused.
        """
        path = file or self._context.home / POLICY_FILE
        with os_errors_named(path):
            try:
                return PolicyText(path, read_small(path, MAX_BYTES)[0])
            except FileNotFoundError:
                if file is not None:
                    raise
        return PolicyText(None, preset_text(DEFAULT_PRESET))

    def check(self, file: Path | None = None) -> PolicyCheck:
        """Say whether `file`, or the policy of the home, is well-formed and does not contradict itself."""
        text = self.text(file)
        try:
            return PolicyCheck(text.name, parse_policy(text.data, name=text.name))
        except PolicyFileError as error:
            return PolicyCheck(text.name, None, error.problems)

    def test(self, file: Path | None = None) -> PolicyTests:
        """Run the tests that lie beside `file`, or beside the policy of the home.

        Raises:
            PolicyFileError: The policy or the tests are malformed.
            CasesNotFoundError: There are no tests.
        """
        text = self.text(file)
        policy = parse_policy(text.data, name=text.name)
        folder = self._context.home if text.file is None else text.file.parent
        cases = folder / CASES_FILE
        if not cases.is_file():
            raise CasesNotFoundError(cases)
        parsed = parse_cases(self.text(cases).data, name=str(cases))
        return PolicyTests(text.name, cases, policy, tuple(run_cases(policy, parsed)))

    def explain(
        self,
        ref: Ref | VersionRef,
        *,
        actor: str,
        to: Stage | None = None,
        tenant: str | None = None,
        identity: str | None = None,
    ) -> Explanation:
        """Say what each rule asks of a climb, what it sees, and why it allows or denies.

        Files, preflight and the numbers of an adapter are not looked at; `promote` does that.

        Args:
            ref: The version.
            actor: Who asks, where there is no identity yet.
            to: The stage to enter; default the next rung.
            tenant: Who shall use it; asks the rules about data classes as well.
            identity: Who would climb; default whoever would sign here.

        Raises:
            NotFoundError: No such version, or no such identity.
            StageError: No climb leads on from its stage.
            TrustError: The chain is not what was signed.
        """
        from loractl_registry.explaining import explain

        return explain(self._context, ref, actor=actor, to=to, tenant=tenant, identity=identity)

    def wants_effect(self) -> bool:
        """Whether some rung asks for a proof of effect.

        Raises:
            PolicyFileError: The policy of the home is malformed.
        """
        text = self.text()
        adapter = parse_policy(text.data, name=text.name).document.adapter
        rungs = () if adapter is None else adapter.rungs()
        return any(rule.type == "effect" for _, rung in rungs if rung is not None for rule in rung.evidence)

    def require_engine(self) -> None:
        """Return if the policy lets the installed engine serve.

        Raises:
            EngineDeniedError: It has a rule about engines, and this one is not among them.
            PolicyFileError: The policy cannot be used.
        """
        from loractl_registry.ledger.engines import require_engine
        from loractl_registry.ledger.judging import home_policy

        require_engine(home_policy(self._context))

    def start_from(self, preset: str) -> PolicyText:
        """Write a preset into the home as its policy, to be edited there.

        Raises:
            PresetNotFoundError: There is no such preset.
            FileExistsRefusedError: The home has a policy.
        """
        data, path = preset_text(preset), self._context.home / POLICY_FILE
        with written_beside(path) as part:
            part.chmod(0o644)
            part.write_bytes(data)
        return PolicyText(path, data)
