"""The only code that imports vLLM: its entry point, the seams it uses, and the engine behind the gateway's port."""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Install what this process of vLLM needs; the entry point `vllm.general_plugins` calls it in every one.

    A second call does nothing, and no call touches CUDA.

    Raises:
        UnsupportedVllmError: The installed vLLM is not a known version.
        BackendUnavailableError: The environment names a back end that cannot run here.
    """
    from loractl.vllm_plugin.install import install  # importing the package alone must not import what it installs

    install()
