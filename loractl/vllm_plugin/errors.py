"""What the plugin refuses inside of vLLM."""

from __future__ import annotations

from loractl.engine.errors import EngineError


class UnsupportedMoeError(EngineError):
    """A Mixture-of-Experts layer asks for something that adapters cannot be combined with here."""

    code = "engine.unsupported_moe"
