"""What serving refuses, before and after the engine is up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loractl.engine.errors import EngineError
from loractl_registry.errors import ConflictError, DeniedError, UsageError


class ServeError(EngineError):
    """Root of the errors of `loractl serve`. Exit code 1."""

    code = "serve.failed"


class PortTakenError(ServeError, ConflictError):
    """Something listens on the address already. Exit code 5."""

    code = "serve.port_taken"

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {host}:{port}: {reason}",
            hint="stop what listens there, or choose another with --port (0 picks a free one)",
        )
        self.host, self.port = host, port


class AlreadyServedError(ServeError, ConflictError):
    """Another `loractl serve` has the same base of the same home. Exit code 5."""

    code = "serve.already_served"

    def __init__(self, base: str, where: str) -> None:
        super().__init__(
            f"base {base} is already being served{where}",
            hint="stop that server first; a promotion or a revocation reaches it without a restart",
        )
        self.base = base


class FlagRefusedError(ServeError, UsageError):
    """An engine flag would undo what loractl guarantees. Exit code 2."""

    code = "serve.flag_refused"

    def __init__(self, flag: str, reason: str, *, hint: str) -> None:
        super().__init__(f"cannot pass {flag} to the engine: {reason}", hint=hint)
        self.flag = flag


class BaseChangedError(ServeError, DeniedError):
    """Files of the base are not what was admitted. Exit code 3."""

    code = "serve.base_changed"

    def __init__(self, base: str, paths: Sequence[str]) -> None:
        named = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        super().__init__(
            f"refusing to serve base {base}: changed since it was admitted: {named}",
            hint=f"restore the files and run: loractl base verify {base} --full",
        )
        self.base, self.paths = base, tuple(paths)


class DistrustError(ServeError, DeniedError):
    """What was signed in the home cannot be trusted, so nothing is known to be approved. Exit code 3."""

    code = "serve.distrust"

    def __init__(self, home: Path, reason: str) -> None:
        super().__init__(f"refusing to serve from {home}: {reason}", hint="see all of it: loractl audit verify")
        self.home, self.reason = home, reason


class EngineMissingError(ServeError):
    """No vLLM build for the wanted device is installed. Exit code 1."""

    code = "serve.engine_missing"


class DeviceMissingError(ServeError):
    """The wanted device is not there. Exit code 1."""

    code = "serve.device_missing"


class EngineCrashedError(ServeError):
    """The engine ended by itself. Exit code 1."""

    code = "serve.engine_crashed"

    def __init__(self, when: str, exit_code: int, log: Path) -> None:
        super().__init__(f"the engine ended {when} with exit code {exit_code}", hint=f"its whole log is in {log}")
        self.exit_code, self.log = exit_code, log


class KeysMissingError(ServeError, DeniedError):
    """The server would answer anybody in the network. Exit code 3."""

    code = "serve.keys_missing"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"refusing to listen on {host}: whoever can reach it could use every adapter, since no key is asked for",
            hint="add a tenant and give it a key: loractl tenant add NAME --adapter '*', then loractl key create NAME; "
            "or set VLLM_API_KEY to one key for all",
        )
        self.host = host
