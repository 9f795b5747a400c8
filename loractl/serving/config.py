"""What `loractl serve` hands to the gateway inside the engine's process."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl.engine.plan import EnginePlan, PlanError
from loractl.serving.errors import ServeError
from loractl.serving.state import run_folder, write_private
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
    """

    home: Path
    base: str
    actor: str
    plan: EnginePlan
    instance: str
    log_level: LogLevel

    def write(self) -> Path:
        """Write the file below the home and return where."""
        body = {
            "home": str(self.home),
            "base": self.base,
            "actor": self.actor,
            "plan": self.plan.to_json(),
            "instance": self.instance,
            "log_level": self.log_level.value,
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
            body = json.loads(_read_own(path))
            return cls(
                home=Path(body["home"]),
                base=str(body["base"]),
                actor=str(body["actor"]),
                plan=EnginePlan.from_json(body["plan"]),
                instance=str(body["instance"]),
                log_level=LogLevel(body["log_level"]),
            )
        except (OSError, ValueError, KeyError, TypeError, PlanError) as error:
            raise EngineConfigError(
                f"cannot read {path}: {error}", hint="start the engine with: loractl serve BASE"
            ) from error


def _read_own(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{path} is not a file of yours alone")
        return stream.read()
