"""``loractl kernels``: check, time and tune the kernels that add adapters to experts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli import kernels_view as view
from loractl.cli.app import Command, new_app
from loractl.cli.context import context_of
from loractl.cli.errors import CliError, CliUsageError
from loractl.cli.style import count_text

if TYPE_CHECKING:
    import torch

    from loractl_kernels.shapes import MoeShape

app = new_app("Check, time and tune the kernels that add adapters to experts.")

_TOKENS = (1, 8, 32, 128, 512, 2048, 8192)

ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="MODEL", help="Take the layers of this model, such as Qwen3-30B-A3B; repeatable."),
]
RankOption = Annotated[
    list[int] | None,
    typer.Option("--rank", metavar="RANK", min=1, max=128, help="Rank of the adapters; repeatable."),
]


class NoGpuError(CliError):
    """What was asked for needs an NVIDIA GPU."""

    code = "kernels.no_gpu"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs an NVIDIA GPU, and torch finds none", hint="see what this machine has: loractl doctor"
        )


@app.command("check", cls=Command, epilog="loractl kernels check\nloractl kernels check --full")
def check(
    ctx: typer.Context,
    *,
    full: Annotated[bool, typer.Option("--full", help="Check many shapes; takes minutes.")] = False,
) -> None:
    """Hold every operation against float64 on this machine's GPU.

    Takes less than a minute. Without a GPU, only the reference is checked. Exit code 1 if anything is wrong.
    """
    app = context_of(ctx)
    from loractl_kernels import selfcheck  # brings torch, which takes a second

    device = _gpu()
    with app.working("checking the kernels"):
        findings = selfcheck.run(device or "cpu", quick=not full)
    name = _name_of(device)
    failed = [finding for finding in findings if not finding.passed]
    app.out.emit(
        lambda: view.check_payload(findings, name),
        lambda style: view.check_lines(findings, name, style),
    )
    if failed:
        raise CliError(
            f"{count_text(len(failed), 'check')} of {len(findings)} failed",
            hint="do not serve with these kernels: LORACTL_KERNELS_BACKEND=vllm loractl serve ...",
        )


@app.command(
    "bench",
    cls=Command,
    epilog="loractl kernels bench\nloractl kernels bench --model gpt-oss-20b --rank 32 --tokens 8 --tokens 512",
)
def bench(
    ctx: typer.Context,
    *,
    model: ModelOption = None,
    rank: RankOption = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option("--tokens", metavar="COUNT", min=1, max=8192, help="Tokens of a batch; repeatable."),
    ] = None,
) -> None:
    """Time a layer's adapters, beside what their bytes take at best.

    One adapter and eight. Each time is the median of 30 replays of a CUDA graph with a cold cache, after the result was
    found right. The floor assumes the memory of an H200.
    """
    app = context_of(ctx)
    families = _families(model, rank)
    device = _gpu()
    if device is None:
        raise NoGpuError("timing")
    from loractl_kernels import bench as layer  # brings torch, which takes a second

    timer = layer.GraphTimer(device)
    rows: list[view.BenchRow] = []
    with app.working("timing the kernels"):
        for shape, its_rank in families:
            cases = [
                layer.LayerCase(shape, count, adapters, 8, its_rank)
                for count in tokens or _TOKENS
                for adapters in (1, 8)
                if adapters <= count
            ]
            workspace = layer.Workspace(
                shape, its_rank, device, max_tokens=max(case.tokens for case in cases), max_loras=8
            )
            for case in cases:
                batch = workspace.batch(case)
                timing = layer.time_case(layer.LoractlBackend(), workspace, batch, timer)
                rows.append(view.BenchRow(case, timing, batch.floors().seam_us()))
    app.out.emit(lambda: view.bench_payload(rows), lambda style: view.bench_lines(rows, style))


@app.command(
    "tune", cls=Command, epilog="loractl kernels tune --model Qwen3-30B-A3B --rank 16\nloractl kernels tune --fresh"
)
def tune(
    ctx: typer.Context,
    *,
    model: ModelOption = None,
    rank: RankOption = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option("--kernel", metavar="KERNEL", help="Tune only this kernel, such as expand_small; repeatable."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Tune again what is tuned already.")] = False,
) -> None:
    """Find the fastest way to launch the kernels on this GPU, and keep it for later starts.

    What is found is written at once, so a run that is stopped goes on where it was. Takes some minutes a model.
    """
    app = context_of(ctx)
    families = _families(model, rank)
    from loractl_kernels import tune as tuning  # brings torch, which takes a second
    from loractl_kernels._triton import configs

    kernels = tuple(kernel or configs.BUCKETS)
    for name in kernels:
        if name not in configs.BUCKETS:
            raise CliUsageError(f"no kernel {name!r}", hint=f"there are {', '.join(configs.BUCKETS)}")
    device = _gpu()
    if device is None:
        raise NoGpuError("tuning")
    gpu = _name_of(device)
    path = configs.user_folder(os.environ) / f"{configs.slug_of(gpu)}.json"
    wanted = tuning.searches(families, kernels)
    left = wanted if fresh else tuning.open_searches(wanted, path)
    found: list[tuning.Found] = []
    with view.counting("tuning", len(left), is_shown=app.progress is not None) as count:
        for one in tuning.tune(left, tuning.GpuJudge(device), path, gpu):
            found.append(one)
            count(str(one.search))
    done = len(wanted) - len(left)
    app.out.emit(lambda: view.tune_payload(found, path, done), lambda style: view.tune_lines(found, path, done, style))


def _families(models: list[str] | None, ranks: list[int] | None) -> list[tuple[MoeShape, int]]:
    from loractl_kernels.shapes import MEASURED, UnknownShapeError, shape_of  # brings torch, which takes a second

    try:
        shapes = [shape_of(name) for name in models or MEASURED]
    except UnknownShapeError as error:
        raise CliUsageError(str(error), hint="name one of them") from error
    return [(shape, rank) for shape in shapes for rank in ranks or shape.ranks]


def _gpu() -> torch.device | None:
    import torch  # takes a second

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def _name_of(device: torch.device | None) -> str:
    import torch  # takes a second

    return "cpu" if device is None else torch.cuda.get_device_name(device)
