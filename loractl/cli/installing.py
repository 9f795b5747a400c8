"""Where each shell looks for completion, and how a script gets there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loractl.cli.errors import CliUsageError
from loractl.cli.scripts import FILE_NAMES, Shell, script_of

_EXECUTABLES = {
    "bash": Shell.BASH,
    "zsh": Shell.ZSH,
    "fish": Shell.FISH,
    "pwsh": Shell.POWERSHELL,
    "powershell": Shell.POWERSHELL,
}
_MARK = "# loractl completion"


@dataclass(frozen=True, slots=True)
class Plan:
    """What teaching one shell takes.

    Attributes:
        rc_file: The start-up file that has to load the script.
        rc_lines: What it has to hold; empty where the shell finds the script by itself.
    """

    shell: Shell
    script_file: Path
    rc_file: Path
    rc_lines: tuple[str, ...]

    def missing_rc_lines(self) -> bool:
        """Whether the start-up file has to be changed."""
        return bool(self.rc_lines) and _MARK not in _text_of(self.rc_file)

    def is_installed(self) -> bool:
        """Whether everything is in place and up to date."""
        return _text_of(self.script_file) == script_of(self.shell) and not self.missing_rc_lines()

    def apply(self) -> bool:
        """Put everything in place and return whether anything had to change."""
        if self.is_installed():
            return False
        _write(self.script_file, script_of(self.shell))
        if self.missing_rc_lines():
            before = _text_of(self.rc_file)
            gap = "" if not before or before.endswith("\n") else "\n"
            _write(self.rc_file, before + gap + "\n".join([_MARK, *self.rc_lines]) + "\n")
        return True


def detect_shell(environ: Mapping[str, str]) -> Shell:
    """Return the shell that started this process, else the login shell.

    Raises:
        CliUsageError: It is none that loractl knows.
    """
    for name in (_parent_name(), Path(environ.get("SHELL", "")).name):
        if name in _EXECUTABLES:
            return _EXECUTABLES[name]
    known = ", ".join(Shell)
    raise CliUsageError("cannot tell which shell this is", hint=f"pass --shell with one of {known}")


def install_plan(shell: Shell, environ: Mapping[str, str]) -> Plan:
    """Return what has to be where so that `shell` completes loractl."""
    home = Path(environ.get("HOME") or Path.home())
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    name = FILE_NAMES[shell]
    match shell:
        case Shell.BASH:
            # bash-completion would find it there by itself, but many systems come without bash-completion.
            script = data / "bash-completion" / "completions" / "loractl"
            return Plan(shell, script, home / ".bashrc", (f"[ -f {_quoted(script)} ] && . {_quoted(script)}",))
        case Shell.ZSH:
            folder = data / "zsh" / "site-functions"
            lines = (f"fpath=({_quoted(folder)} $fpath)", "autoload -Uz compinit && compinit")
            return Plan(shell, folder / name, Path(environ.get("ZDOTDIR") or home) / ".zshrc", lines)
        case Shell.FISH:
            return Plan(shell, config / "fish" / "completions" / name, config / "fish" / "config.fish", ())
        case Shell.POWERSHELL:
            script = data / "loractl" / name
            profile = config / "powershell" / "profile.ps1"
            return Plan(shell, script, profile, (f". {_quoted(script)}",))


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


def _parent_name() -> str:
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write `path` whole or not at all, through a link if it is one, as start-up files in dotfile repositories are."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
