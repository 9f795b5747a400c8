"""Run the body of `loractl serve` as a script: request fields as JSON in argv, one JSON line of stdout an event."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from loractl.engine.errors import EngineError
from loractl.serving.launch import PreparedServer, serve
from loractl.serving.request import Ready, ServeRequest
from loractl_registry import Registry, RegistryError
from loractl_registry.progress import SILENT, Progress


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


class JsonUi:
    def __init__(self) -> None:
        self.progress: Progress = SILENT
        self._step = ""

    def prepared(self, server: PreparedServer) -> None:
        say(event="prepared", models=server.models, shell=server.shell)

    def step(self, label: str, elapsed_s: float) -> None:
        if label != self._step:
            self._step = label
            say(event="step", label=label, elapsed_s=elapsed_s)

    def ready(self, ready: Ready) -> None:
        say(event="ready", url=ready.endpoint.url, models=ready.models, startup_s=ready.startup_s, log=str(ready.log))

    def notice(self, level: str, message: str) -> None:
        say(event="notice", level=level, message=message)

    def last_lines(self, lines: Sequence[str]) -> None:
        say(event="last_lines", lines=list(lines))


def main(body: dict[str, object]) -> int:
    home = Path(str(body.pop("home")))
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
    request = ServeRequest(home=home, **arguments)  # type: ignore[arg-type]
    with Registry.open(home, must_exist=True) as registry:
        try:
            return serve(request, registry=registry, ui=JsonUi())
        except (EngineError, RegistryError) as error:
            say(event="error", code=error.code, message=str(error), hint=error.hint)
            return 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
