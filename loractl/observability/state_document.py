"""The document of a server's live state, as whoever asked for it reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from loractl.observability.errors import StateUnreadableError

_Count = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    # Keys that a newer server adds are no business of this reader; `format` says when it could misread the others.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Distribution(_Part):
    """A histogram.

    Attributes:
        count: All observations, those beyond the last bucket too.
        buckets: Upper bounds, ascending, each with the observations up to it; empty while there are none at all.
    """

    count: _Count
    sum_s: _Amount
    buckets: tuple[tuple[_Amount, _Count], ...]


class Totals(_Part):
    """What was counted since the server started, for one adapter, one tenant, or everybody."""

    requests: _Count
    errors: dict[str, _Count]
    refused: dict[str, _Count]
    input_tokens: _Count
    output_tokens: _Count
    busy_s: _Amount
    ttft: Distribution
    inter_token: Distribution
    total: Distribution
    queue: Distribution


class AdapterRow(_Part):
    """One version, the base (neither version nor stage), or what has no row of its own."""

    name: str
    version: _Count | None
    stage: str | None
    is_resident: bool
    waiting: int
    in_flight: int
    totals: Totals

    @property
    def is_base(self) -> bool:
        """Whether the base itself answers; the rows of loractl's own begin with ``_``, as no name may."""
        return self.version is None and not self.name.startswith("_")

    @property
    def ref(self) -> str:
        """The name as a client writes it."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


class StandingRow(_Part):
    """One limit and what is left of it."""

    kind: str
    limit: _Count
    remaining: int
    reset_s: _Amount


class TenantRow(_Part):
    """One tenant; without a weight if the registry does not know it any more."""

    name: str
    weight: _Amount | None
    priority: str | None = None
    waiting: int
    in_flight: int
    limits: dict[str, _Count]
    standing: tuple[StandingRow, ...]
    totals: Totals


class BaseRow(_Part):
    """The base that is served."""

    name: str
    digest: str


class HealthRow(_Part):
    """What the server says of its own health."""

    status: str
    reason: str | None


class EngineRow(_Part):
    """What the engine can hold."""

    max_num_seqs: _Count
    slots: _Count
    kv_use: float | None


class LiveState(_Part):
    """Everything of one moment."""

    format: Literal[1]
    at: AwareDatetime
    uptime_s: _Amount | None = None
    base: BaseRow
    health: HealthRow
    fairness: str
    engine: EngineRow
    waiting: int
    in_flight: int
    adapters: tuple[AdapterRow, ...]
    tenants: tuple[TenantRow, ...]
    totals: Totals


def parse_state(body: bytes) -> LiveState:
    """Read what ``GET /loractl/v1/state`` answered.

    Raises:
        StateUnreadableError: It is no such document, or one of a format that this version does not know.
    """
    try:
        return LiveState.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise StateUnreadableError(f"{where}: {first['msg']}") from None
