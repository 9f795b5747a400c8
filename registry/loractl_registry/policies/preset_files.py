"""The policies that are shipped, to be used as they are or copied and edited."""

from __future__ import annotations

from pathlib import Path

from loractl_registry.policies.errors import PresetNotFoundError
from loractl_registry.policies.parsing import Policy, parse_policy

PRESETS = ("solo", "team")

_FOLDER = Path(__file__).parent / "presets"


def preset_text(name: str) -> bytes:
    """Read the TOML text of a preset.

    Raises:
        PresetNotFoundError: It is not one of `PRESETS`.
    """
    if name not in PRESETS:
        raise PresetNotFoundError(name, PRESETS)
    return (_FOLDER / f"{name}.toml").read_bytes()


def preset(name: str) -> Policy:
    """Read and parse a preset.

    Raises:
        PresetNotFoundError: It is not one of `PRESETS`.
    """
    return parse_policy(preset_text(name), name=f"preset {name}")
