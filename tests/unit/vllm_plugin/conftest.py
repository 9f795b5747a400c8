"""What holds for the tests of the plugin."""

import importlib
import warnings

import pytest

from loractl.vllm_plugin import compat


@pytest.fixture
def vllm_may_warn():
    """Let what vLLM says when it is imported be no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def cuda_layers(vllm_may_warn):
    """`cuda_layers`, imported when a test runs: vLLM takes seconds."""
    if compat.installed_version() is None:
        pytest.skip("needs vLLM")
    return importlib.import_module("unit.vllm_plugin.cuda_layers")
