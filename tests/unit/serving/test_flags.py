"""Flags that may be passed to vLLM, and flags that may not."""

from __future__ import annotations

import pytest

from loractl.serving.errors import FlagRefusedError
from loractl.serving.flags import check_engine_flags


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--max-model-len", "512"],
        ["--dtype=float32", "--enforce-eager"],
        ["--gpu-memory-utilization", "0.8", "-tp", "2"],
        ["--enable-prompt-tokens-details", "--max-num-seqs", "8"],
        ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"],
        ["--chat-template", "/etc/template.jinja"],
        ["--generation-config", "vllm", "--seed", "-1"],
        ["--tokenizer-mode", "slow", "--kv-cache-memory-bytes", "33554432"],
        ["-O3", "-cc.mode=3"],
        ["--spec-method", "ngram"],
    ],
)
def test_harmless_flags_pass(arguments: list[str]) -> None:
    check_engine_flags(arguments)


@pytest.mark.parametrize(
    "flag",
    [
        "--middleware=evil.Middleware",
        "--lora-modules",
        "--enable-lora",
        "--no-enable-lora",
        "--max-lora-rank",
        "--default-mm-loras",
        "--served-model-name",
        "--model",
        "--tokenizer",
        "--host",
        "--port=80",
        "--uds",
        "--root-path",
        "--api-key",
        "--ssl-keyfile",
        "--allowed-local-media-path",
        "--trust-remote-code",
        "--load-format",
        "--tool-parser-plugin",
        "--worker-cls",
        "--enable-log-requests",
        "--kv-events-config.publisher",
        "--config",
        "--headless",
        "--api-server-count",
        "-asc",
        "-dp",
        "-dpb",
        "-n2",
        "--data-parallel-rpc-port",
        "--hf-overrides.architectures",
        "--speculative-config",
        "-sc.model",
        "--weight-transfer-config",
        "--enable-sleep-mode",
    ],
)
def test_flag_that_undoes_a_guarantee_is_refused(flag: str) -> None:
    with pytest.raises(FlagRefusedError) as refused:
        check_engine_flags(["--max-model-len", "512", flag, "value"])

    assert flag.partition("=")[0] in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize(
    "spelling",
    ["--enable_lora", "--trust_remote_code", "--no-trust-remote-code", "--TRUST-REMOTE-CODE", "--max_loras=9"],
)
def test_other_spellings_of_a_refused_flag_are_refused(spelling: str) -> None:
    with pytest.raises(FlagRefusedError):
        check_engine_flags([spelling])


@pytest.mark.parametrize("shortened", ["--middle", "--serv", "--trust-remote", "--api-k", "--mod", "--load-f", "-as"])
def test_abbreviation_of_a_refused_flag_is_refused(shortened: str) -> None:
    with pytest.raises(FlagRefusedError, match="short for"):
        check_engine_flags([shortened])


def test_second_double_dash_is_refused() -> None:
    with pytest.raises(FlagRefusedError):
        check_engine_flags(["--"])
