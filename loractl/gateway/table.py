"""What each model name means right now: a pure function of the registry and of what the engine can take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from loractl_registry import AdapterVersion, Base, ServingSnapshot, ServingTerms, Stage, VersionRef
from loractl_registry.refs import LIVE

RefusalOf: TypeAlias = Callable[[AdapterVersion], "str | None"]
IsReady: TypeAlias = Callable[[AdapterVersion], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers a request.

    Attributes:
        model: The name that the engine knows: the base's, or an exact ref.
        version: The adapter version behind it; None is the base itself.
        terms: On what signed terms it answers; None for the base.
    """

    model: str
    version: AdapterVersion | None
    terms: ServingTerms | None = None

    @property
    def adapter(self) -> str:
        """The name of the adapter, or of the base."""
        return self.model if self.version is None else self.version.ref.name


@dataclass(frozen=True, slots=True)
class ServingTable:
    """Names and who answers to them; immutable, so that a reader never sees half a change.

    Attributes:
        targets: Every name that answers, with ``name``, ``name@live`` and ``name@3`` each spelled out.
    """

    base: Base
    targets: Mapping[str, Target]

    @classmethod
    def base_only(cls, base: Base) -> ServingTable:
        """Return the table in which no adapter answers."""
        return cls(base, MappingProxyType({base.name: Target(base.name, None)}))

    @classmethod
    def of(
        cls,
        snapshot: ServingSnapshot,
        *,
        refusal_of: RefusalOf,
        damaged: Collection[VersionRef] = frozenset(),
        is_ready: IsReady = lambda _: True,
    ) -> ServingTable:
        """Decide what each name means.

        ``name@N`` answers if that version is servable, intact, ready, and the engine can take it. ``name`` means the
        live version; while the engine cannot take that one or does not hold it yet, the first of those that were live
        before that does. A damaged live version has no such stand-in: whoever can damage a file must not be able to
        choose an older version by it.

        Args:
            snapshot: What the registry says.
            refusal_of: Why the engine cannot take a version, or None if it can.
            damaged: Versions whose stored bytes are not what was approved.
            is_ready: Whether the engine holds a version now.
        """
        targets = {snapshot.base.name: Target(snapshot.base.name, None)}
        for version in wanted_versions(snapshot, refusal_of=refusal_of, damaged=damaged):
            if is_ready(version):
                targets[str(version.ref)] = Target(str(version.ref), version, snapshot.terms.get(version.ref))
        for live in snapshot.versions:
            if live.stage is Stage.LIVE and live.ref not in damaged:
                target = _meaning_of(live, snapshot, targets)
                if target is not None:
                    targets[live.ref.name] = targets[f"{live.ref.name}@{LIVE}"] = target
        return cls(snapshot.base, MappingProxyType(targets))

    def resolve(self, model: str) -> Target | None:
        """Return who answers to `model`, or None: nobody does."""
        return self.targets.get(model)

    def models(self, names: Collection[str]) -> list[dict[str, object]]:
        """Return the entries of ``/v1/models``: the base, then each live name and each exact version, sorted.

        Args:
            names: Those that may be seen.
        """
        adapters = sorted(name for name in self.targets if name != self.base.name and not name.endswith(f"@{LIVE}"))
        return [self.describe(name) for name in (self.base.name, *adapters) if name in names]

    def describe(self, model: str) -> dict[str, object]:
        """Return the entry of ``/v1/models`` for `model`, which must be a name in the table.

        `root` is the exact version that answers; paths stay private.
        """
        target = self.targets[model]
        added_at = self.base.added_at if target.version is None else target.version.added_at
        return {
            "id": model,
            "object": "model",
            "created": int(added_at.timestamp()),
            "owned_by": "loractl",
            "root": target.model,
            "parent": None if target.version is None else self.base.name,
        }


def wanted_versions(
    snapshot: ServingSnapshot, *, refusal_of: RefusalOf, damaged: Collection[VersionRef]
) -> tuple[AdapterVersion, ...]:
    """Return what the engine shall hold: servable, intact, and something that it can take."""
    return tuple(
        version
        for version in snapshot.versions
        if version.stage.is_servable and version.ref not in damaged and refusal_of(version) is None
    )


def _meaning_of(live: AdapterVersion, snapshot: ServingSnapshot, targets: Mapping[str, Target]) -> Target | None:
    before = snapshot.previously_live.get(live.ref.name, ())
    for number in (live.ref.number, *before):
        target = targets.get(f"{live.ref.name}@{number}")
        if target is not None:
            return target
    return None
