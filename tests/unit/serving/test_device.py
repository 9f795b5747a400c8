"""Which device the engine runs on."""

from __future__ import annotations

import pytest

from loractl.engine.plan import Device
from loractl.serving.device import choose_device
from loractl.serving.errors import DeviceMissingError, EngineMissingError
from loractl.settings import DeviceChoice

CPU, CUDA = frozenset({Device.CPU}), frozenset({Device.CUDA})


def choose(choice: DeviceChoice, *, gpu: bool, builds: frozenset[Device]) -> Device:
    return choose_device(choice, has_gpu=lambda: gpu, has_build=lambda device: device in builds)


@pytest.mark.parametrize(
    ("choice", "gpu", "builds", "device"),
    [
        (DeviceChoice.AUTO, True, CUDA, Device.CUDA),
        (DeviceChoice.AUTO, True, CPU, Device.CPU),
        (DeviceChoice.AUTO, False, CPU, Device.CPU),
        (DeviceChoice.CPU, True, CPU, Device.CPU),
        (DeviceChoice.CUDA, True, CUDA, Device.CUDA),
    ],
)
def test_device_is_what_is_asked_for_and_there(
    choice: DeviceChoice, gpu: bool, builds: frozenset[Device], device: Device
) -> None:
    assert choose(choice, gpu=gpu, builds=builds) is device


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(DeviceMissingError):
        choose(DeviceChoice.CUDA, gpu=False, builds=CUDA)


@pytest.mark.parametrize(
    ("choice", "gpu", "builds", "extra"),
    [
        (DeviceChoice.AUTO, False, frozenset[Device](), "cpu"),
        (DeviceChoice.AUTO, True, frozenset[Device](), "cuda"),
        (DeviceChoice.AUTO, False, CUDA, "cpu"),
        (DeviceChoice.CPU, False, CUDA, "cpu"),
        (DeviceChoice.CUDA, True, CPU, "cuda"),
    ],
)
def test_missing_build_is_refused_with_the_command_that_installs_it(
    choice: DeviceChoice, gpu: bool, builds: frozenset[Device], extra: str
) -> None:
    with pytest.raises(EngineMissingError) as refused:
        choose(choice, gpu=gpu, builds=builds)

    assert refused.value.hint == f"uv pip install -e '.[{extra}]'"
