"""What `loractl serve` hands to the gateway inside the engine's process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl.engine.plan import EnginePlan, PlanError
from loractl.serving.errors import ServeError
from loractl.serving.state import read_private, run_folder, write_private
from loractl.serving.traffic import TrafficSettings
from loractl.settings import LogLevel

CONFIG_VARIABLE = "LORACTL_ENGINE_CONFIG"


class EngineConfigError(ServeError):
    """The gateway cannot read its configuration, so it does not let the server come up."""

    code = "serve.engine_config"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The gateway's configuration, kept in a file that only its owner can read, named by `CONFIG_VARIABLE`.

    Attributes:
        instance: What tells this server from any other at the same address.
        is_guarded: Whether a key is wanted even while there are no tenants.
        witness: File that keeps the signed checkpoint besides the home.
        traffic: How requests are queued, recorded and traced.
        orders_prompts: Whether the engine takes prompts in the order that the gateway says.
    """

    home: Path
    base: str
    actor: str
    plan: EnginePlan
    instance: str
    log_level: LogLevel
    is_guarded: bool
    witness: Path | None
    traffic: TrafficSettings
    orders_prompts: bool

    def write(self) -> Path:
        """Write the file below the home and return where."""
        body = {
            "home": str(self.home),
            "base": self.base,
            "actor": self.actor,
            "plan": self.plan.to_json(),
            "instance": self.instance,
            "log_level": self.log_level.value,
            "is_guarded": self.is_guarded,
            "witness": None if self.witness is None else str(self.witness),
            "traffic": self.traffic.to_json(),
            "orders_prompts": self.orders_prompts,
        }
        path = run_folder(self.home) / f"{self.base}.config"
        write_private(path, json.dumps(body, indent=1))
        return path

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> EngineConfig:
        """Read the file that the environment names.

        Raises:
            EngineConfigError: There is none, others may write it, or it does not say what is needed.
        """
        named = environ.get(CONFIG_VARIABLE)
        if not named:
            raise EngineConfigError(f"{CONFIG_VARIABLE} is not set", hint="start the engine with: loractl serve BASE")
        path = Path(named)
        try:
            body = json.loads(read_private(path))
            return cls(
                home=Path(body["home"]),
                base=str(body["base"]),
                actor=str(body["actor"]),
                plan=EnginePlan.from_json(body["plan"]),
                instance=str(body["instance"]),
                log_level=LogLevel(body["log_level"]),
                is_guarded=body["is_guarded"] is True,
                witness=None if body["witness"] is None else Path(body["witness"]),
                traffic=TrafficSettings.from_json(body["traffic"]),
                orders_prompts=body["orders_prompts"] is True,
            )
        except (OSError, ValueError, KeyError, TypeError, PlanError) as error:
            raise EngineConfigError(
                f"cannot read {path}: {error}", hint="start the engine with: loractl serve BASE"
            ) from error
