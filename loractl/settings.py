"""Settings of one invocation: flag > environment ``LORACTL_*`` > file > default, each with where it came from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

PREFIX = "LORACTL_"
CONFIG_FILE = "config.toml"
# Read by loractl itself, beside the settings below.
PASSPHRASE_VARIABLE = "LORACTL_IDENTITY_PASSPHRASE"  # noqa: S105  # the name of a variable
OPERATOR_KEY_VARIABLE = "LORACTL_OPERATOR_KEY"
TOKEN_VARIABLE = "SIGSTORE_IDENTITY_TOKEN"  # noqa: S105  # the name of a variable, which sigstore-python reads too
OTHER_VARIABLES = frozenset({"LORACTL_DEBUG", PASSPHRASE_VARIABLE, OPERATOR_KEY_VARIABLE})


class SettingsError(Exception):
    """A setting has a value that cannot be used. `hint` is the way out."""

    code = "settings.invalid"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class DeviceChoice(StrEnum):
    """What the engine shall run on."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Fairness(StrEnum):
    """Who goes next while the engine is short: whoever came first, or whoever has had least."""

    OFF = "off"
    VTC = "vtc"


class ProveAt(StrEnum):
    """When a promotion to candidate proves the effect first: wherever an engine is installed, where the policy asks."""

    AUTO = "auto"
    POLICY = "policy"
    NEVER = "never"


class LogLevel(StrEnum):
    """How much the server's log says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Source(StrEnum):
    """Where a value came from, strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of one setting came from.

    Attributes:
        where: The flag, the variable or the file; empty for a default.
    """

    source: Source
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.source.value


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set.

    A plain dataclass with parsers of its own, because importing pydantic takes as long as a whole ``loractl list`` may.

    Attributes:
        home: Folder of the registry.
        actor: Who appears in the audit log.
        identity: Whose private key signs; None takes the only one in the home.
        witness: File that keeps the signed checkpoint besides the home; in a git work tree, it is committed.
        max_adapters: Adapters that the engine holds at once; None leaves it to the plan.
        max_rank: Largest adapter rank that the engine takes; None leaves it to the plan.
        queue_timeout_s: Longest wait of a request for its turn.
        records: Whether a server keeps a record of every request.
        trace_endpoint: OpenTelemetry collector, as an URL for OTLP over HTTP; None sends no traces.
        prove: When ``loractl promote`` proves a draft's effect first; its flags ``--prove`` and ``--no-prove`` win.
        scan_command: What ``loractl evidence scan`` runs: a list of words, or one text that is split as a shell would.
        origins: Where each value came from, by name.
    """

    home: Path
    actor: str
    identity: str | None
    witness: Path | None
    device: DeviceChoice
    host: str
    port: int
    max_adapters: int | None
    max_rank: int | None
    fairness: Fairness
    queue_timeout_s: int
    records: bool
    trace_endpoint: str | None
    log_level: LogLevel
    prove: ProveAt
    scan_command: tuple[str, ...] | None
    origins: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class _Setting:
    """How one setting is read.

    Attributes:
        parse: Turns the text or TOML value into the value; raises ValueError that says what is wanted.
        default: Computes the value that holds when nobody says anything.
        flag: Spelling on the command line, or empty if only the environment and files can set it.
    """

    parse: Callable[[object], object]
    default: Callable[[Mapping[str, str]], object]
    flag: str = ""


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """Read every setting from its strongest source.

    Args:
        flags: Values given on the command line, by setting name; None means not given.
        environ: The process environment.

    Raises:
        SettingsError: A value, a key or a file cannot be used; the message names the variable or the file.
    """
    home, home_origin = _home(flags, environ)
    from_files = _read_files(home, environ)
    values: dict[str, object] = {}
    origins: dict[str, Origin] = {}
    for name, setting in _SETTINGS.items():
        if name == "home":
            values[name], origins[name] = home, home_origin
        else:
            values[name], origins[name] = _resolve(name, setting, flags, environ, from_files)
    return Settings(**values, origins=origins)  # type: ignore[arg-type]  # each parser returns its field's type


def home_of(environ: Mapping[str, str], flag: str | None = None) -> Path:
    """Return the home alone, by the same rules; tab completion has no time for the rest."""
    return _home({"home": flag}, environ)[0]


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in the order in which they are shown."""
    return tuple(_SETTINGS)


def variable_of(name: str) -> str:
    """Return the environment variable that sets `name`."""
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ``LORACTL_*`` variables that nothing reads: most likely misspelt."""
    known = {variable_of(name) for name in _SETTINGS} | OTHER_VARIABLES
    return tuple(sorted(name for name in environ if name.startswith(PREFIX) and name not in known))


def config_files(home: Path, environ: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the two places of config.toml, strongest first: the home, then the platform's folder for configuration."""
    return home / CONFIG_FILE, _user_config_dir(environ) / CONFIG_FILE


def _resolve(
    name: str,
    setting: _Setting,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    from_files: Mapping[str, tuple[object, Path]],
) -> tuple[object, Origin]:
    if flags.get(name) is not None:
        return _parsed(setting, flags[name], Origin(Source.FLAG, setting.flag))
    if environ.get(variable_of(name)):
        return _parsed(setting, environ[variable_of(name)], Origin(Source.ENVIRONMENT, variable_of(name)))
    if name in from_files:
        value, file = from_files[name]
        return _parsed(setting, value, Origin(Source.FILE, str(file)), key=name)
    return setting.default(environ), Origin(Source.DEFAULT)


def _parsed(setting: _Setting, value: object, origin: Origin, *, key: str = "") -> tuple[object, Origin]:
    try:
        return setting.parse(value), origin
    except ValueError as error:
        where = f"{key!r} in {origin.where}" if key else origin.where
        change = {Source.FLAG: "pass another value", Source.ENVIRONMENT: f"change or unset {origin.where}"}
        raise SettingsError(
            f"{where} is {value!r}, which is not {error}",
            hint=change.get(origin.source, f"edit {origin.where}"),
        ) from error


def _home(flags: Mapping[str, object], environ: Mapping[str, str]) -> tuple[Path, Origin]:
    setting = _SETTINGS["home"]
    named = flags.get("home") is not None or environ.get(variable_of("home"))
    file = _user_config_dir(environ) / CONFIG_FILE
    # A home that was named needs no look at the file that could name another one.
    from_file = {} if named else {key: (value, file) for key, value in _read_toml(file).items() if key == "home"}
    value, origin = _resolve("home", setting, flags, environ, from_file)
    assert isinstance(value, Path)  # noqa: S101  # narrows what the table of parsers cannot say
    return value, origin


def _read_files(home: Path, environ: Mapping[str, str]) -> dict[str, tuple[object, Path]]:
    own, shared = config_files(home, environ)
    found: dict[str, tuple[object, Path]] = {}
    for file in (shared, own):
        for key, value in _read_toml(file).items():
            if key == "home" and file == own:
                raise SettingsError(
                    f"'home' is set in {file}, which lies in the home itself", hint=f"set it in {shared}"
                )
            if key not in _SETTINGS:
                raise SettingsError(f"unknown setting {key!r} in {file}", hint=f"use one of {', '.join(_SETTINGS)}")
            found[key] = (value, file)
    return found


def _read_toml(file: Path) -> dict[str, object]:
    try:
        text = file.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {file}: {error}", hint="make it readable UTF-8 or remove it") from error
    import tomllib  # only where there is a file: 15 ms that tab completion would feel

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not TOML: {error}", hint=f"edit {file}") from error


def _user_config_dir(environ: Mapping[str, str]) -> Path:
    if sys.platform.startswith("linux"):
        # What platformdirs does here, without the time that importing it takes.
        return Path(environ.get("XDG_CONFIG_HOME") or _user_home(environ) / ".config") / "loractl"
    import platformdirs

    return Path(platformdirs.user_config_dir("loractl", appauthor=False))


def _default_home(environ: Mapping[str, str]) -> Path:
    if sys.platform.startswith("linux"):
        return Path(environ.get("XDG_DATA_HOME") or _user_home(environ) / ".local" / "share") / "loractl"
    import platformdirs

    return Path(platformdirs.user_data_dir("loractl", appauthor=False))


def _user_home(environ: Mapping[str, str]) -> Path:
    try:
        return Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError as error:
        raise SettingsError("this account has no home folder", hint="set LORACTL_HOME to a folder") from error


def _default_actor(_environ: Mapping[str, str]) -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that no account has.
        return f"uid-{os.getuid()}"


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("a path of an account that exists") from error


def _actor(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 120:
        raise ValueError("a name of 1 to 120 printable characters")
    return value.strip()


def _identity(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", value):
        raise ValueError("a name of 1 to 63 lower-case letters, digits, '-', '_' or '.'")
    return value


def _host(value: object) -> str:
    if not isinstance(value, str) or not value or any(letter.isspace() or letter == "/" for letter in value):
        raise ValueError("a host name or address, such as 127.0.0.1")
    return value


def _number(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if not text.isascii() or not text.isdigit() or not low <= int(text[:20]) <= high:
            raise ValueError(f"a number from {low} to {high}")
        return int(text)

    return parse


def _command(value: object) -> tuple[str, ...]:
    wanted = 'a command, such as "modelscan -p" or ["modelscan", "-p"]'
    if isinstance(value, str):
        import shlex  # only where there is a text to split

        try:
            words: list[object] = list(shlex.split(value))
        except ValueError as error:
            raise ValueError(wanted) from error
    else:
        words = list(cast("list[object]", value)) if isinstance(value, list) else []
    texts = tuple(word for word in words if isinstance(word, str) and word and "\0" not in word)
    if not texts or len(texts) != len(words):
        raise ValueError(wanted)
    return texts


def _choice(kind: type[StrEnum]) -> Callable[[object], StrEnum]:
    def parse(value: object) -> StrEnum:
        try:
            return kind(str(value).lower())
        except ValueError as error:
            raise ValueError(f"one of {', '.join(kind)}") from error

    return parse


def _switch(value: object) -> bool:
    known = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
    found = known.get(str(value).lower())
    if found is None:
        raise ValueError("true or false")
    return found


def _url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]{1,500}", value):
        raise ValueError("an address such as http://localhost:4318/v1/traces")
    return value


_SETTINGS: dict[str, _Setting] = {
    "home": _Setting(_path, _default_home, "--home"),
    "actor": _Setting(_actor, _default_actor),
    "identity": _Setting(_identity, lambda _: None),
    "witness": _Setting(_path, lambda _: None),
    "device": _Setting(_choice(DeviceChoice), lambda _: DeviceChoice.AUTO, "--device"),
    "host": _Setting(_host, lambda _: "127.0.0.1", "--host"),
    "port": _Setting(_number(0, 65535), lambda _: 8000, "--port"),
    "max_adapters": _Setting(_number(1, 4096), lambda _: None, "--max-adapters"),
    "max_rank": _Setting(_number(1, 512), lambda _: None, "--max-rank"),
    "fairness": _Setting(_choice(Fairness), lambda _: Fairness.VTC, "--fairness"),
    "queue_timeout_s": _Setting(_number(1, 86400), lambda _: 60, "--queue-timeout"),
    "records": _Setting(_switch, lambda _: True, "--records"),
    "trace_endpoint": _Setting(_url, lambda _: None),
    "log_level": _Setting(_choice(LogLevel), lambda _: LogLevel.INFO),
    "prove": _Setting(_choice(ProveAt), lambda _: ProveAt.POLICY),
    "scan_command": _Setting(_command, lambda _: None),
}
