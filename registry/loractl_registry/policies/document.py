"""What a ``policy.toml`` may say; what it leaves out is denied."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from loractl_registry.policies.patterns import ANYONE, ROLE_PREFIX, ROLES
from loractl_registry.stages import Stage

RUNGS = (Stage.CANDIDATE, Stage.APPROVED, Stage.LIVE)
"""The stages that a climb enters, in order; each stands on the ones before it."""

DEFAULT_CLASSES = ("public", "internal", "confidential")
MAX_DAYS = 3650


def _printable(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise ValueError("a printable text without blanks around it")
    return text


def _someone(text: str) -> str:
    role = text.removeprefix(ROLE_PREFIX)
    if text.startswith(ROLE_PREFIX) and role not in ROLES:
        near = get_close_matches(role, ROLES, n=1)
        raise ValueError(f"{ROLE_PREFIX}{near[0]}" if near else " or ".join(ROLE_PREFIX + role for role in ROLES))
    return text


def _people(who: tuple[str, ...]) -> tuple[str, ...]:
    if ANYONE in who and len(who) > 1:
        raise ValueError(f'either ["{ANYONE}"] or a list of roles and identities')
    return who


def _unique(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) != len(texts):
        raise ValueError("a list that names nothing twice")
    return texts


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_unique)]
Someone = Annotated[Text, AfterValidator(_someone)]
Who = Annotated[tuple[Someone, ...], Field(min_length=1), AfterValidator(_unique), AfterValidator(_people)]
Count = Annotated[int, Field(ge=1, le=20)]
Days = Annotated[int, Field(ge=1, le=MAX_DAYS)]
Bound = Annotated[float, Field(allow_inf_nan=False)]


class _Rules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BaseRules(_Rules):
    """``[base]``: which base models are admitted.

    Attributes:
        by: Who admits them.
        allow: Names, or digests of manifests as ``sha256:hex``.
        licences: SPDX identifiers, in any case.
        sources: ``hf:OWNER/REPO`` or an absolute path; ``*`` stands for any characters.
        engines: Versions of the engine; ``*`` stands for any characters.
    """

    by: Who
    allow: Texts | None = None
    licences: Texts | None = None
    sources: Texts | None = None
    engines: Texts | None = None


class ApprovalRule(_Rules):
    """How many people must have approved a version.

    Attributes:
        count: Different people.
        four_eyes: Whether an approval by the one who added the version does not count.
        max_age_days: How long an approval counts; as long as the rung holds unless it is said.
    """

    count: Count
    by: Who
    four_eyes: bool = True
    max_age_days: Days | None = None


class SignatureRule(_Rules):
    """How many people must have signed the files of a version."""

    count: Count
    by: Who


class Threshold(_Rules):
    """Bounds of one metric, both inclusive."""

    min: Bound | None = None
    max: Bound | None = None


class EvidenceRule(_Rules):
    """A piece of evidence that must be there; one item has to meet all of it.

    Attributes:
        kinds: What made it, such as the harness or how an effect was proved; any kind unless it is said.
    """

    type: Literal["eval", "card", "scan", "review", "effect"]
    kinds: Texts | None = None
    metrics: dict[Text, Threshold] = Field(default_factory=dict[str, Threshold])


class Rung(_Rules):
    """``[adapter.STAGE]``: what entering one stage takes, beside what the stages before it take.

    Attributes:
        by: Who may take a version there.
        bases: Names or digests of the bases that a version may belong to.
        data_licences: Licences that every data set must have one of.
        expires_days: How long the decision holds, from the oldest approval that it needs.
    """

    by: Who
    approvals: ApprovalRule | None = None
    signatures: SignatureRule | None = None
    evidence: tuple[EvidenceRule, ...] = ()
    max_rank: Annotated[int, Field(ge=1)] | None = None
    max_size_mib: Annotated[int, Field(ge=1)] | None = None
    bases: Texts | None = None
    base_licences: Texts | None = None
    data_licences: Texts | None = None
    max_data_class: Text | None = None
    expires_days: Days | None = None


class DataRules(_Rules):
    """``[adapter.data]``: which classes of data there are, and who may use what was trained on them.

    Attributes:
        classes: From the most open to the most closed.
        tenants: By class, the tenants that may use it; ``*`` stands for any characters. A class without is for nobody.
    """

    classes: Texts = DEFAULT_CLASSES
    tenants: dict[Text, Texts] = Field(default_factory=dict[str, tuple[str, ...]])


class BreakGlass(_Rules):
    """``[adapter.break_glass]``: who may climb without approvals and evidence, and for how long that holds."""

    by: Who
    hours: Annotated[int, Field(ge=1, le=168)]


class AdapterRules(_Rules):
    """``[adapter]``: what adapter versions need."""

    candidate: Rung | None = None
    approved: Rung | None = None
    live: Rung | None = None
    data: DataRules | None = None
    break_glass: BreakGlass | None = None

    @property
    def data_classes(self) -> tuple[str, ...]:
        """The classes of data, from the most open to the most closed."""
        return DEFAULT_CLASSES if self.data is None else self.data.classes

    def rungs(self) -> Iterator[tuple[Stage, Rung | None]]:
        """Yield every rung from below, None for one without a rule."""
        yield from zip(RUNGS, (self.candidate, self.approved, self.live), strict=True)


class PolicyDocument(_Rules):
    """One ``policy.toml``."""

    base: BaseRules | None = None
    adapter: AdapterRules | None = None
