"""The command follows the plan, and says what vLLM needs besides."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine import cpu_plan

from loractl.engine.plan import Device, EnginePlan
from loractl.vllm_plugin.command import MIDDLEWARE, EngineCommand, engine_command, takes_prompts_in_order

PLAN = cpu_plan(slots=3, host_slots=7, is_mixed=True, modules=("experts", "q_proj"))
ON_CUDA = replace(PLAN, device=Device.CUDA, dtype=None, max_context=None, cache_bytes=None)


def command(plan: EnginePlan, *extra: str) -> EngineCommand:
    return engine_command(plan, base_path=Path("/bases/tiny"), host="127.0.0.1", port=8123, extra_args=extra)


def value_of(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--model", "/bases/tiny"),
        ("--served-model-name", "base"),
        ("--host", "127.0.0.1"),
        ("--port", "8123"),
        ("--middleware", MIDDLEWARE),
        ("--max-loras", "3"),
        ("--max-cpu-loras", "7"),
        ("--max-lora-rank", "8"),
        ("--dtype", "float32"),
        ("--max-model-len", "512"),
        ("--kv-cache-memory-bytes", str(32 * 2**20)),
    ],
)
def test_flag_carries_what_the_plan_says(flag, value):
    assert value_of(command(PLAN).argv, flag) == value


def test_modules_follow_their_flag_and_none_wraps_all():
    argv = command(PLAN).argv
    start = argv.index("--lora-target-modules")

    assert argv[start + 1 : start + 3] == ("experts", "q_proj")
    assert "--lora-target-modules" not in command(replace(PLAN, modules=())).argv


def test_mixed_layouts_are_asked_for_only_where_the_plan_mixes():
    assert "--enable-mixed-moe-lora-format" in command(PLAN).argv
    assert "--enable-mixed-moe-lora-format" not in command(replace(PLAN, is_mixed=False)).argv


def test_cuda_leaves_to_vllm_what_the_plan_leaves_open():
    made = command(ON_CUDA)

    assert not {"--dtype", "--max-model-len", "--kv-cache-memory-bytes", "--enforce-eager"} & set(made.argv)
    assert set(made.env) == {"HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"}


def test_extra_arguments_come_last_so_that_they_win():
    assert command(PLAN, "--max-num-seqs", "4").argv[-2:] == ("--max-num-seqs", "4")


def test_prompts_are_taken_in_order_where_that_is_asked_for_and_the_user_says_nothing_else():
    def argv(*extra, in_order):
        return engine_command(
            PLAN, base_path=Path("/b"), host="127.0.0.1", port=1, extra_args=extra, in_order=in_order
        ).argv

    assert takes_prompts_in_order(argv(in_order=True))
    assert not takes_prompts_in_order(argv(in_order=False))
    assert not takes_prompts_in_order(argv("--scheduling-policy", "fcfs", in_order=True))
    assert not takes_prompts_in_order(argv("--scheduling_policy=fcfs", in_order=True))
    assert takes_prompts_in_order(argv("--scheduling-policy=priority", in_order=False))


def test_cuda_captures_prefills_too():
    argv = command(ON_CUDA).argv
    at = argv.index("--cudagraph-capture-sizes")

    sizes = list(itertools.takewhile(str.isdigit, argv[at + 1 :]))

    assert sizes[:3] == ["1", "2", "4"]
    assert sizes[-1] == "8192"
    assert "--cudagraph-capture-sizes" not in command(PLAN).argv


@pytest.mark.parametrize(
    "flags",
    [
        ("--enforce-eager",), ("--cudagraph-capture-sizes", "1"), ("--max_cudagraph_capture_size=8",), ("-O0",),
        ("--compilation-config", "{}"), ("-cc.cudagraph_mode=none",),
    ],
)  # fmt: skip
def test_users_own_graphs_win(flags):
    argv = command(ON_CUDA, *flags).argv

    assert argv.count("--cudagraph-capture-sizes") == flags.count("--cudagraph-capture-sizes")


@pytest.mark.parametrize("plan", [PLAN, ON_CUDA], ids=["cpu", "cuda"])
def test_no_client_can_load_an_adapter(plan):
    made = command(plan)

    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in made.env
    assert "--trust-remote-code" not in made.argv


def test_planning_a_command_imports_neither_vllm_nor_torch():
    code = "import sys, loractl.vllm_plugin.command; print({'vllm', 'torch'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
