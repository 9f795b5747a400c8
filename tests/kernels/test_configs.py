"""Launch configurations: which file wins, what is refused, and what tuning writes."""

from __future__ import annotations

import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loractl_kernels import tune
from loractl_kernels._triton import configs
from loractl_kernels._triton.configs import BUCKETS, ConfigError, Key, Launch, launch_for
from loractl_kernels.bench import GateError
from loractl_kernels.operands import SMALL_PAIRS
from loractl_kernels.shapes import SHAPES, shape_of

CPU = torch.device("cpu")
SIZES = {"in_features": 2880, "out_features": 5760, "columns": 32}
OTHER = Launch(32, 32, 8, 2, 2)
LAUNCH = {"block_n": 64, "block_k": 64, "num_warps": 4, "num_stages": 3, "programs_per_sm": 4}
FIRST = BUCKETS["expand_small"][0]
ENTRY = {"kernel": "expand_small", "max_pairs": FIRST, **SIZES, "launch": LAUNCH}
FILES = sorted(Path(configs.__file__).with_name("configs").glob("*.json"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(configs.FOLDER_VARIABLE, str(tmp_path))
    configs.forget()
    yield tmp_path
    configs.forget()


def lookup(kernel: str = "expand_small", pairs: int = 1, **sizes: int) -> Launch:
    return launch_for(kernel, pairs=pairs, **(SIZES | sizes), device=CPU)


def write(folder: Path, document: object) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "cpu.json").write_text(text)


def test_bucket_of_small_batches_ends_where_they_do():
    assert {buckets[-1] for kernel, buckets in BUCKETS.items() if kernel.endswith("small")} == {SMALL_PAIRS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_packaged_file_can_be_read(path):
    assert configs.read_table(path, is_default=path.name == "default.json")


def test_default_covers_every_kernel_and_bucket():
    table = configs.read_table(FILES[0].with_name("default.json"), is_default=True)

    assert set(table) == {Key(kernel, bucket) for kernel, buckets in BUCKETS.items() for bucket in buckets}


def test_default_is_what_an_unknown_gpu_gets():
    table = configs.read_table(FILES[0].with_name("default.json"), is_default=True)

    assert lookup("expand_small") == table[Key("expand_small", FIRST)]
    assert lookup("expand_tiled", pairs=1 << 20) == table[Key("expand_tiled", None)]


@pytest.mark.parametrize(
    ("kernel", "pairs", "bucket"),
    [
        ("shrink_small", 0, 64), ("shrink_small", 64, 64), ("shrink_small", 65, 256), ("shrink_small", 1024, 1024),
        ("shrink_small", 9999, 4096), ("sum_tiled", 1025, 8192), ("sum_tiled", 8192, 8192), ("sum_tiled", 8193, None),
    ],
)  # fmt: skip
def test_batch_chooses_the_bucket(kernel, pairs, bucket):
    assert configs.bucket_of(kernel, pairs) == bucket


def test_entry_of_the_user_wins_for_its_family_alone(folder):
    configs.write_table(folder / "cpu.json", "cpu", {Key("expand_small", FIRST, **SIZES): OTHER})

    assert lookup() == OTHER
    assert lookup(columns=16) != OTHER
    assert lookup(pairs=FIRST + 1) != OTHER


def test_forced_launch_holds_inside_alone():
    with configs.forcing("expand_small", OTHER):
        assert lookup() == OTHER
        with configs.forcing("expand_small", replace(OTHER, block_n=16)):
            assert lookup().block_n == 16
        assert lookup() == OTHER
        assert lookup("shrink_small") != OTHER

    assert lookup() != OTHER


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param("", "is not JSON", id="empty"),
        pytest.param("[" * 100_000, "is not JSON", id="deep"),
        pytest.param(" " * ((1 << 20) + 1), "larger than", id="huge"),
        pytest.param([], "must be an object", id="list"),
        pytest.param('{"format": 1, "format": 1, "gpu": "", "entries": []}', "twice", id="repeated-name"),
        pytest.param({"format": 2, "gpu": "", "entries": []}, "format must be 1", id="other-format"),
        pytest.param({"format": 1, "entries": []}, "must have format, gpu and entries", id="no-gpu"),
        pytest.param({"format": 1, "gpu": "", "entries": {}}, "entries must be a list", id="entries"),
        pytest.param(ENTRY | {"kernel": "rm"}, "entry 0: kernel must be one of shrink_small", id="kernel"),
        pytest.param(ENTRY | {"kernel": ["x"]}, "entry 0: kernel must be one of", id="unhashable-kernel"),
        pytest.param(ENTRY | {"max_pairs": 17}, "entry 0: max_pairs must be one of", id="bucket"),
        pytest.param(ENTRY | {"max_pairs": float(FIRST)}, "entry 0: max_pairs must be one of", id="float-bucket"),
        pytest.param(ENTRY | {"columns": True}, "entry 0: columns must be a positive integer", id="bool"),
        pytest.param(ENTRY | {"columns": -1}, "entry 0: columns must be a positive integer", id="negative"),
        pytest.param(ENTRY | {"note": ""}, "entry 0 must have", id="unknown-name"),
        pytest.param(ENTRY | {"launch": LAUNCH | {"block_n": 48}}, "block_n must be one of", id="block"),
        pytest.param(ENTRY | {"launch": LAUNCH | {"block_k": 1024}}, "block_k must be one of", id="long-step"),
        pytest.param(ENTRY | {"launch": LAUNCH | {"num_warps": 3}}, "num_warps must be one of", id="warps"),
        pytest.param(ENTRY | {"launch": LAUNCH | {"num_stages": 99}}, "num_stages must be one of", id="stages"),
        pytest.param(ENTRY | {"launch": LAUNCH | {"num_warps": [4]}}, "num_warps must be one of", id="list-of-warps"),
        pytest.param(ENTRY | {"launch": None}, "launch must be an object", id="no-launch"),
        pytest.param([ENTRY, ENTRY], "entry 1 says again", id="twice"),
    ],
)
def test_damaged_file_is_refused_and_named(folder, document, message):
    if isinstance(document, dict) and "kernel" in document:
        document = [document]
    if isinstance(document, list) and document:
        document = {"format": 1, "gpu": "cpu", "entries": document}
    write(folder, document)

    with pytest.raises(ConfigError, match=message) as refused:
        lookup()

    assert str(folder / "cpu.json") in str(refused.value)


def test_folder_or_pipe_of_that_name_is_refused_without_waiting(folder):
    os.mkfifo(folder / "cpu.json")
    with pytest.raises(ConfigError, match="not a plain file"):
        lookup()

    (folder / "cpu.json").unlink()
    (folder / "cpu.json").mkdir()
    with pytest.raises(ConfigError, match=r"not a plain file|cannot be read"):
        lookup()


def test_dangling_link_is_refused(folder):
    (folder / "cpu.json").symlink_to(folder / "nowhere")

    with pytest.raises(ConfigError, match="cannot be read"):
        lookup()


@pytest.mark.parametrize(
    ("name", "slug"),
    [("NVIDIA H200", "nvidia-h200"), ("H100 80GB  HBM3", "h100-80gb-hbm3"), ("../../etc", "etc"), ("", "unknown")],
)
def test_name_of_a_gpu_cannot_leave_the_folder(name, slug):
    assert configs.slug_of(name) == slug


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({configs.FOLDER_VARIABLE: "/x", "XDG_CACHE_HOME": "/c"}, Path("/x")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/loractl/kernels")),
        ({}, Path.home() / ".cache/loractl/kernels"),
    ],
    ids=["own", "xdg", "home"],
)
def test_folder_of_the_user(environ, path):
    assert configs.user_folder(environ) == path


def test_written_table_reads_back_the_same(folder):
    table = {search.key: OTHER for search in tune.searches([(shape, 16) for shape in SHAPES.values()])}

    configs.write_table(folder / "new" / "gpu.json", 'a "GPU"', table)

    assert configs.read_table(folder / "new" / "gpu.json") == table
    assert [path.name for path in (folder / "new").iterdir()] == ["gpu.json"]


def judge_of(best: Launch, refused: frozenset[int] = frozenset()):
    def judge(search, launch: Launch) -> float:
        if launch.num_warps in refused:
            return math.inf
        names = tune.AXES[search.key.kernel]
        return 10.0 + sum(abs(math.log2(getattr(launch, name) / getattr(best, name))) for name in names)

    return judge


def searches_of(*kernels: str) -> list[tune.Search]:
    return tune.searches([(shape_of("gpt-oss-20b"), 32)], kernels)


@pytest.mark.parametrize("kernel", BUCKETS)
def test_search_finds_the_fastest_of_what_the_kernel_reads(kernel):
    search = searches_of(kernel)[0]
    best = Launch(256, 32, 8, 2, 16)

    found = tune.find(search, judge_of(best), Launch(64, 64, 4, 3, 4))

    assert {name: getattr(found.launch, name) for name in tune.AXES[kernel]} == {
        name: getattr(best, name) for name in tune.AXES[kernel]
    }
    assert found.after_us < found.before_us
    assert found.refused == 0


def test_search_takes_no_launch_that_is_refused():
    found = tune.find(searches_of("expand_small")[0], judge_of(OTHER, frozenset({8})), Launch(64, 64, 4, 3, 4))

    assert found.launch.num_warps == 4
    assert found.refused > 0


def test_search_raises_where_the_launch_in_use_is_wrong():
    with pytest.raises(GateError, match="gpt-oss-20b r32 w13 expand_small, <= 64 pairs: the launch in use"):
        tune.find(searches_of("expand_small")[0], lambda search, launch: math.inf, OTHER)


def test_searches_cover_both_projections_once():
    wanted = searches_of(*BUCKETS)

    buckets = len(BUCKETS["shrink_small"]) + len(BUCKETS["shrink_tiled"])
    assert len(wanted) == len({search.key for search in wanted}) == 6 * buckets
    assert {search.key.kernel for search in wanted if search.is_second}.isdisjoint({"activate_small", "activate_tiled"})
    assert {search.key.columns for search in tune.searches([(shape_of("OLMoE-1B-7B"), 16)])} == {16, 32}


def test_stopped_tuning_goes_on_where_it_was(folder):
    path, wanted = folder / "cpu.json", searches_of("expand_small", "sum_small")
    first = itertools.islice(tune.tune(wanted, judge_of(OTHER), path, "cpu"), 2)

    done = [found.search for found in first]

    assert set(configs.read_table(path)) == {search.key for search in done}
    assert tune.open_searches(wanted, path) == wanted[2:]
    assert lookup().block_n == OTHER.block_n


def test_tuning_does_not_touch_a_damaged_file(folder):
    write(folder, "{")

    with pytest.raises(ConfigError):
        tune.open_searches(searches_of("sum_small"), folder / "cpu.json")

    assert (folder / "cpu.json").read_text() == "{"
