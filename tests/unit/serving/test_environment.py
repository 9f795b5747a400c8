"""What the engine sees of the environment."""

from __future__ import annotations

import pytest

from loractl.serving.environment import engine_environment


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LORACTL_HOME", "PYTHONPATH", "HTTP_PROXY", "PS1"]
)
def test_secrets_and_strangers_stay_out(name: str) -> None:
    assert name not in engine_environment({name: "x"}, {}).variables


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "VLLM_LOGGING_LEVEL"]
)
def test_what_the_engine_needs_is_passed(name: str) -> None:
    assert engine_environment({name: "x"}, {}).variables[name] == "x"


def test_key_that_the_gateway_checks_is_not_the_engines() -> None:
    environment = engine_environment({"VLLM_API_KEY": "x"}, {})

    assert "VLLM_API_KEY" not in {*environment.variables, *environment.withheld}


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_PLUGINS",
        "VLLM_SKIP_MODEL_NAME_VALIDATION",
        "VLLM_USE_RUST_FRONTEND",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE",
    ],
)
def test_dangerous_switch_is_withheld_with_a_reason(name: str) -> None:
    environment = engine_environment({name: "1"}, {})

    assert name not in environment.variables
    assert environment.withheld[name]


def test_hub_is_offline_whatever_was_inherited() -> None:
    variables = engine_environment({"HF_HUB_OFFLINE": "0"}, {}).variables

    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["VLLM_NO_USAGE_STATS"] == "1"


def test_own_variables_win() -> None:
    assert (
        engine_environment({"VLLM_CPU_KVCACHE_SPACE": "4"}, {"VLLM_CPU_KVCACHE_SPACE": "1"}).variables[
            "VLLM_CPU_KVCACHE_SPACE"
        ]
        == "1"
    )
