"""``loractl kernels`` on a machine without a GPU, and what it says of one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from loractl.cli import kernels, kernels_view
from loractl.cli.style import Style, style_of
from loractl_kernels import selfcheck, tune
from loractl_kernels._triton.configs import Key, Launch
from loractl_kernels.bench import LayerCase, Timing
from loractl_kernels.selfcheck import Finding
from loractl_kernels.shapes import shape_of

GOOD = Finding("w13", "prime sizes", passed=True, worst=0.001, bound=0.01)
BAD = Finding("w2", "one token", passed=False, worst=0.5, bound=0.01)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(kernels, "_gpu", lambda: None)


def plain() -> Style:
    return style_of(io.StringIO(), {})


def test_check_without_a_gpu_says_so_and_is_0(cli, no_gpu, monkeypatch):
    monkeypatch.setattr(selfcheck, "run", lambda device, quick: [GOOD])

    result = cli("kernels", "check")

    assert result.code == 0
    assert "no NVIDIA GPU here: only the reference was checked, on the CPU" in result.out


def test_json_of_check_has_its_shape(cli, golden, no_gpu, monkeypatch):
    monkeypatch.setattr(selfcheck, "run", lambda device, quick: [GOOD])

    result = cli("kernels", "check", "--json")

    assert (result.code, result.err) == (0, "")
    golden("kernels-check", result.out)


def test_check_that_fails_is_1_and_names_the_case(cli, no_gpu, monkeypatch):
    monkeypatch.setattr(selfcheck, "run", lambda device, quick: [GOOD, BAD])

    result = cli("kernels", "check")

    assert result.code == 1
    assert "one token: 0.5, and 0.01 is allowed" in result.out
    assert "1 check of 2 failed" in result.err


@pytest.mark.parametrize(("flags", "quick"), [((), True), (("--full",), False)])
def test_check_is_quick_unless_full(cli, no_gpu, monkeypatch, flags, quick):
    asked = []
    monkeypatch.setattr(selfcheck, "run", lambda device, quick: asked.append((device, quick)) or [GOOD])

    cli("kernels", "check", *flags)

    assert asked == [("cpu", quick)]


@pytest.mark.parametrize("command", ["bench", "tune"])
def test_what_needs_a_gpu_refuses_without_one(cli, golden, no_gpu, command):
    result = cli("kernels", command, "--json")

    assert (result.code, result.out) == (1, "")
    golden(f"error-no-gpu-{command}", result.err)


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(("bench", "--model", "llama"), id="model"),
        pytest.param(("tune", "--kernel", "llama"), id="kernel"),
        pytest.param(("bench", "--rank", "129"), id="rank"),
        pytest.param(("bench", "--tokens", "0"), id="tokens"),
    ],
)
def test_what_there_is_not_is_2(cli, no_gpu, argv):
    result = cli("kernels", *argv)

    assert result.code == 2
    assert "\nhint: " in result.err


def test_bench_is_a_table_and_json():
    case = LayerCase(shape_of("gpt-oss-20b"), 8, 8, 8, 32)
    rows = [kernels_view.BenchRow(case, Timing(18.0, 20.0, 22.0), 10.0)]

    assert "gpt-oss-20b    32       8         8  20.0      10.0          2.0" in kernels_view.bench_lines(rows, plain())
    assert kernels_view.bench_payload(rows) == [
        {
            "model": "gpt-oss-20b", "rank": 32, "tokens": 8, "adapters": 8, "p20_us": 18.0, "p50_us": 20.0,
            "p80_us": 22.0, "floor_us": 10.0,
        }
    ]  # fmt: skip


def test_tune_says_what_got_faster_and_where_it_is_kept():
    search = tune.Search(shape_of("gpt-oss-20b"), 32, Key("expand_small", 16, 2880, 5760, 32), is_second=False)
    found = [tune.Found(search, Launch(32, 32, 8, 2, 2), 20.0, 10.0, 12, 1)]

    lines = list(kernels_view.tune_lines(found, Path("/x/gpu.json"), 3, plain()))

    assert lines == [
        "2.00x  gpt-oss-20b r32 w13 expand_small, <= 16 pairs  20.0 -> 10.0 us",
        "1 launch configuration written to /x/gpu.json; 3 tuned already",
    ]
    payload = kernels_view.tune_payload(found, Path("/x/gpu.json"), 3)
    assert payload["already_tuned"] == 3
    assert payload["found"][0]["launch"]["block_n"] == 32


def test_counting_shows_nothing_where_nobody_looks(capsys):
    with kernels_view.counting("tuning", 2, is_shown=False) as count:
        count("one")

    assert capsys.readouterr() == ("", "")
