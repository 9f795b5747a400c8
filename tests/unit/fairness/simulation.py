"""A discrete-event engine in virtual time: an event loop whose clock jumps to whatever happens next."""

from __future__ import annotations

import asyncio
import bisect
import selectors
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loractl.fairness import AdmissionController, Request

T = TypeVar("T")


class NothingHappensError(Exception):
    """Every task waits for another: a wakeup was lost."""


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingHappensError
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for nothing but its own timers, in no time at all."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time."""
        return self._virtual.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a new virtual loop, and end whatever it leaves."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class Timing:
    """How long a step takes.

    Attributes:
        decode_s: (sequences, seconds) of a step that generates one token for each; linear in between and beyond.
        prefill_token_s: Added for every prompt token in the step.
        load_s: Added for every adapter that has to be brought into its slot.
        request_s: What a request takes before the engine's steps know of it.
        max_batched_tokens: Prompt and generated tokens of one step.
    """

    decode_s: tuple[tuple[int, float], ...] = ((1, 0.01), (64, 0.02))
    prefill_token_s: float = 1e-5
    load_s: float = 0.0
    request_s: float = 0.0
    max_batched_tokens: int = 8192

    def step_s(self, sequences: int, prompt_tokens: int, loads: int) -> float:
        """Return how long one step takes."""
        points = self.decode_s
        at = min(max(1, bisect.bisect_left(points, (sequences, 0.0))), len(points) - 1)
        (x0, y0), (x1, y1) = points[at - 1], points[at]
        base = y0 + (y1 - y0) * (max(sequences, points[0][0]) - x0) / (x1 - x0)
        return base + prompt_tokens * self.prefill_token_s + loads * self.load_s


@dataclass(eq=False)
class _Job:
    adapter: str | None
    prompt_left: int
    output_left: int
    on_token: Callable[[], None]
    done: asyncio.Future[None]
    order: int = 0
    chunk: int = 0
    is_started: bool = False


@dataclass(eq=False)
class Engine:
    """Continuous batching with chunked prefill, first come, first served, and `slots` adapters in a batch.

    Like vLLM, it passes over a waiting request whose adapter does not fit beside those that run. With `in_order` it
    begins prompts by the order that the gate gives them, as vLLM does with ``--scheduling-policy priority``; one that
    it has begun goes on first.
    """

    timing: Timing = field(default_factory=Timing)
    max_num_seqs: int = 64
    slots: int = 8
    in_order: bool = False
    tokens_out: int = 0
    tokens_in: int = 0
    busy_s: float = 0.0
    most_adapters: int = 0
    waiting: list[_Job] = field(default_factory=list[_Job])
    running: list[_Job] = field(default_factory=list[_Job])

    def __post_init__(self) -> None:
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._wake = asyncio.Event()

    @contextmanager
    def started(self) -> Generator[None]:
        """Run for as long as the context lasts."""
        task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def generate(
        self, adapter: str | None, prompt: int, output: int, on_token: Callable[[], None], order: int = 0
    ) -> None:
        """Generate `output` tokens, calling `on_token` for each; being cancelled frees the sequence."""
        if self.timing.request_s:
            await asyncio.sleep(self.timing.request_s)
        job = _Job(adapter, max(1, prompt), output, on_token, asyncio.get_running_loop().create_future(), order)
        self.waiting.append(job)
        self._wake.set()
        try:
            await job.done
        except asyncio.CancelledError:
            for jobs in (self.waiting, self.running):
                if job in jobs:
                    jobs.remove(job)
            raise

    async def _run(self) -> None:
        while True:
            if not self.running and not self.waiting:
                self._wake.clear()
                await self._wake.wait()
            loads = self._fill()
            prompt_tokens = self._schedule()
            step_s = self.timing.step_s(len(self.running), prompt_tokens, loads)
            self.busy_s += step_s
            await asyncio.sleep(step_s)
            self._finish()

    def _fill(self) -> int:
        adapters = {job.adapter for job in self.running} - {None}
        loads = 0
        passed_over: list[_Job] = []
        for job in self._ordered(self.waiting):
            fits = job.adapter is None or job.adapter in adapters or len(adapters) < self.slots
            if len(self.running) >= self.max_num_seqs or not fits:
                passed_over.append(job)
                continue
            self.running.append(job)
            if job.adapter is not None:
                adapters.add(job.adapter)
                loads += self._load(job.adapter, adapters)
        self.waiting = passed_over
        self.most_adapters = max(self.most_adapters, len(adapters))
        return loads

    def _load(self, adapter: str, busy: set[str | None]) -> bool:
        is_cold = adapter not in self._loaded
        self._loaded[adapter] = None
        self._loaded.move_to_end(adapter)
        if len(self._loaded) > self.slots:
            del self._loaded[next(name for name in self._loaded if name not in busy)]
        return is_cold

    def _schedule(self) -> int:
        budget = self.timing.max_batched_tokens - sum(not job.prompt_left for job in self.running)
        tokens = 0
        begun = [job for job in self.running if job.is_started]
        for job in (*begun, *self._ordered(job for job in self.running if not job.is_started)):
            job.chunk = min(job.prompt_left, max(0, budget - tokens))
            job.is_started = job.is_started or job.chunk > 0
            tokens += job.chunk
        return tokens

    def _ordered(self, jobs: Iterable[_Job]) -> list[_Job]:
        return sorted(jobs, key=lambda job: job.order) if self.in_order else list(jobs)

    def _finish(self) -> None:
        for job in tuple(self.running):
            self.tokens_in += job.chunk
            job.prompt_left -= job.chunk
            job.chunk = 0
            if job.prompt_left:
                continue
            job.output_left -= 1
            self.tokens_out += 1
            job.on_token()
            if job.output_left <= 0:
                self.running.remove(job)
                if not job.done.done():
                    job.done.set_result(None)


@dataclass
class Answer:
    """What became of one request; times in seconds from the start of the loop."""

    request: Request
    asked: float
    admitted: float | None = None
    first: float | None = None
    ended: float | None = None
    tokens: int = 0


async def ask(
    controller: AdmissionController | None,
    engine: Engine,
    request: Request,
    *,
    prompt: int | None = None,
    output: int | None = None,
    note: Callable[[Answer], None] | None = None,
) -> Answer:
    """Send one request through the gate, or past it, and return what became of it.

    Args:
        controller: The gate, or None for none.
        prompt: True length of the prompt, if not as estimated.
        output: Tokens that it generates, if not as many as it may.
        note: Told of the answer before anything is asked, so that one that is cut short is known too.
    """
    answer = Answer(request, now())
    if note is not None:
        note(answer)
    prompt = request.estimated_input_tokens if prompt is None else prompt
    output = request.max_output_tokens if output is None else output
    if controller is None:
        await _generate(engine, answer, prompt, output, lambda: None)
        return answer
    async with controller.admit(request) as grant:
        grant.charge(input_tokens=prompt)
        await _generate(engine, answer, prompt, output, lambda: grant.charge(output_tokens=1), grant.order)
    return answer


async def _generate(
    engine: Engine, answer: Answer, prompt: int, output: int, charge: Callable[[], None], order: int = 0
) -> None:
    answer.admitted = now()

    def on_token() -> None:
        if answer.first is None:
            answer.first = now()
        answer.tokens += 1
        charge()

    await engine.generate(answer.request.adapter, prompt, output, on_token, order)
    answer.ended = now()


OUTPUT_COST = 2


def service(answers: Iterable[Answer]) -> Counter[str]:
    """Return the weighted tokens that each tenant has had so far."""
    total: Counter[str] = Counter()
    for answer in answers:
        if answer.admitted is not None:
            total[answer.request.tenant] += answer.request.estimated_input_tokens + OUTPUT_COST * answer.tokens
    return total


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel `tasks`, and wait until they are gone."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
