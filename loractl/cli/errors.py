"""What a user sees when a command does not succeed, and the one place that knows exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TextIO

from loractl.cli.out import dump, mute
from loractl.cli.style import clean, style_of, wrap
from loractl_registry.errors import ConflictError, DeniedError, NotFoundError, UsageError


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DENIED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    INTERRUPTED = 130


class CliError(Exception):
    """The command line itself refused. `hint` is the way out."""

    code = "cli.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class CliUsageError(CliError):
    """The command was called in a way that cannot work."""

    code = "cli.usage"


class NoSuchFileError(CliError):
    """A file that was named does not exist."""

    code = "cli.no_such_file"

    def __init__(self, path: Path) -> None:
        super().__init__(f"no file {path}", hint="check the path")
        self.path = path


class NoSuchRequestError(CliError):
    """No request with this id is among those that were recorded."""

    code = "cli.no_such_request"

    def __init__(self, request_id: str) -> None:
        hint = "records are kept for a limited time; see what there is: loractl requests"
        super().__init__(f"no request {request_id[:80]!r} was recorded", hint=hint)
        self.request_id = request_id


class FileExistsCliError(CliError):
    """The file to write is there already, with something else in it."""

    code = "cli.file_exists"

    def __init__(self, file: Path) -> None:
        super().__init__(f"{file} exists and is not overwritten", hint="pass --force, or another folder with --to")
        self.file = file


class ConfirmationNeededError(CliUsageError):
    """A question had to be asked, and there is nobody to ask."""

    code = "cli.confirmation_needed"

    def __init__(self, what: str, flag: str) -> None:
        super().__init__(f"{what}, and there is no terminal to ask on", hint=f"pass {flag}")
        self.flag = flag


class DeclinedError(CliError):
    """The user said no."""

    code = "cli.declined"

    def __init__(self) -> None:
        super().__init__("nothing was changed, as you asked")


class VerificationFailedError(CliError):
    """A check ran to its end and found something wrong; what, is on stdout."""

    code = "cli.verification_failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told about an exception."""

    exit_code: ExitCode
    code: str
    message: str
    hint: str | None = None


_FAMILIES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (CliUsageError, ExitCode.USAGE),
    (DeniedError, ExitCode.DENIED),
    (VerificationFailedError, ExitCode.DENIED),
    (NotFoundError, ExitCode.NOT_FOUND),
    (NoSuchFileError, ExitCode.NOT_FOUND),
    (NoSuchRequestError, ExitCode.NOT_FOUND),
    (FileExistsCliError, ExitCode.CONFLICT),
    (ConflictError, ExitCode.CONFLICT),
)

# Errors known by code, so that only the commands that raise them import them.
_CODES: Mapping[str, ExitCode] = {
    "serve.port_taken": ExitCode.CONFLICT,
    "serve.already_served": ExitCode.CONFLICT,
    "serve.flag_refused": ExitCode.USAGE,
    "settings.invalid": ExitCode.USAGE,
    "top.no_server": ExitCode.NOT_FOUND,
    "top.key_refused": ExitCode.DENIED,
    "top.key_file": ExitCode.DENIED,
}


def failure_of(error: BaseException, environ: Mapping[str, str], home: Path | None) -> Failure:
    """Return what to tell about `error`; an unexpected one is logged below `home`."""
    if isinstance(error, KeyboardInterrupt):
        return Failure(ExitCode.INTERRUPTED, "cli.interrupted", "interrupted")
    code, hint = getattr(error, "code", None), getattr(error, "hint", None)
    if isinstance(code, str) and "." in code:
        # The registry, the engine, the settings and the server mark so what they raise on purpose.
        exit_code = _CODES.get(code) or _exit_code_of(error)
        return Failure(exit_code, code, str(error), hint if isinstance(hint, str) else None)
    if isinstance(error, OSError):
        return _os_failure(error)
    return _unexpected(error, environ, home)


def usage_failure(message: str, command: str) -> Failure:
    """Return what to tell about arguments that the parser of `command` refused."""
    # "Value error" is how pydantic, which reads words for Typer, begins what an enumeration refused.
    text = message.strip().rstrip(".").replace(": Value error, ", ": ")
    lowered = text[:1].lower() + text[1:]
    return Failure(ExitCode.USAGE, CliUsageError.code, lowered, f"run: {command} --help")


def report(failure: Failure, *, is_json: bool, environ: Mapping[str, str], stream: TextIO) -> ExitCode:
    """Write `failure` to stderr, as JSON or as at most a few lines, and return the exit code."""
    if is_json:
        body = {"code": failure.code, "message": failure.message, "hint": failure.hint}
        text = dump({"error": body})
    else:
        style = style_of(stream, environ)
        first, *rest = wrap(f"error: {clean(failure.message)}", style.width, indent="  ")
        lines = [first.replace("error:", style.bad("error:"), 1), *rest]
        if failure.hint:
            first, *rest = wrap(f"hint: {clean(failure.hint)}", style.width, indent="  ")
            lines += [first.replace("hint:", style.command("hint:"), 1), *rest]
        text = "\n".join(lines)
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        mute(stream)
    return failure.exit_code


def _exit_code_of(error: BaseException) -> ExitCode:
    for family, exit_code in _FAMILIES:
        if isinstance(error, family):
            return exit_code
    return ExitCode.FAILED


def _os_failure(error: OSError) -> Failure:
    named = f"{error.filename}: " if error.filename else ""
    message = f"{named}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(ExitCode.FAILED, "os.disk_full", message, "free some space, or run: loractl gc")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Failure(ExitCode.FAILED, "os.denied", message, "make it accessible to you, or name another place")
    if isinstance(error, FileNotFoundError):
        return Failure(ExitCode.NOT_FOUND, "os.not_found", message, "check the path")
    return Failure(ExitCode.FAILED, "os.failed", message)


def _unexpected(error: BaseException, environ: Mapping[str, str], home: Path | None) -> Failure:
    if environ.get("LORACTL_DEBUG") == "1":
        traceback.print_exception(error, file=sys.stderr)
        where = "the traceback is above"
    else:
        log = _write_log(error, home)
        where = f"the details are in {log}" if log else "run it again with LORACTL_DEBUG=1 to see the details"
    return Failure(ExitCode.FAILED, "cli.unexpected", f"unexpected {type(error).__name__}: {_one_line(error)}", where)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or "no message"


def _write_log(error: BaseException, home: Path | None) -> Path | None:
    """Append the traceback to the log; return where, or None if it cannot be written either."""
    if home is None:
        return None
    log = home / "logs" / "cli.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now(UTC).isoformat()} loractl {' '.join(sys.argv[1:2])}\n")
            traceback.print_exception(error, file=stream)
    except OSError:
        return None
    return log
