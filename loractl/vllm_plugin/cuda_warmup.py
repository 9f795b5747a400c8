"""Have Triton compile at start what vLLM's kernels need while they serve, so that no request waits for a compiler.

A batch that a CUDA graph takes is padded to one of the captured sizes, and the capture compiles for those. A larger
one runs eagerly with just the tokens that the scheduler gave it. Triton compiles a kernel again for each choice of
tiles and whenever an integer becomes or ceases to be one, or a multiple of 16. What an earlier process compiled lies on
disk, but each process has to load it, and vLLM's monitor counts that as a compilation too: so each start runs the model
once for every variant that a number of tokens can ask for.
"""

from __future__ import annotations

import functools
import importlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from loractl.vllm_plugin.compat import Symbol

_log = logging.getLogger("vllm.loractl")

_RESTED_ON = ("run_dummy", "setup_dummy_loras", "select_dummy_loras", "dummy_run_with_lora", "mixed_graphs")
_ALIGNED = 16
_LEAST_TILE, _LARGEST_TILE = 16, 128
_MOST_ROW_TILES = 16
_LAST_BOUND = 3584
_LOGPROB_TILE = 1024
_SAMPLED_ROWS = 2


def warm_token_counts(max_tokens: int, *, first: int, top_k: int, experts: int) -> tuple[int, ...]:
    """Return numbers of tokens that together need every variant that any number from `first` to `max_tokens` needs.

    The dummy run's routing is random, and that does not matter: tiles are chosen by the number of tokens and by pairs
    an expert on average, and what kernels are handed are sizes, never the histogram.

    What the kernels see of a number of tokens is `_views`. A number is taken if one of its views is new; those below it
    cost less, so they are asked first. For 8192 tokens, and graphs up to 256, that is about 50 numbers and in all
    55 000 tokens.

    Args:
        max_tokens: Tokens of the largest batch.
        first: Tokens of the smallest batch that runs eagerly.
        top_k: Experts a token goes to.
        experts: Experts of a layer.
    """
    seen, counts = set[tuple[object, ...]](), list[int]()
    for tokens in range(first, max_tokens + 1):
        views = set(_views(tokens, top_k, experts))
        if not views <= seen:
            seen |= views
            counts.append(tokens)
    return tuple(counts)


def logprob_counts(max_logprobs: int) -> tuple[int, ...]:
    """Return how many log-probabilities to ask for, so that every variant up to `max_logprobs` of them is compiled.

    The kernel's columns are those and the token itself; their number is an integer and, rounded up to a power of two
    of at most 1024, a tile.
    """
    seen, counts = set[tuple[object, ...]](), list[int]()
    for count in range(min(max_logprobs, 2 * _LOGPROB_TILE) + 1):
        view = (min(_power_of_two(count + 1), _LOGPROB_TILE), _kind(count + 1))
        if view not in seen:
            seen.add(view)
            counts.append(count)
    return tuple(counts)


def _views(tokens: int, top_k: int, experts: int) -> Iterator[tuple[object, ...]]:
    """Yield what each kernel is compiled for, as far as it hangs on the number of tokens (vLLM 0.32.0).

    - `fused_moe_kernel`: tiles tuned for a grid of powers of two and half-way points between them, up to 4096, or by
      default by bounds that are such numbers, but for 128 tokens an expert; two ways to sort for few pairs; the pairs,
      and the pairs with every expert's filled up to a tile, whose rest is that of the pairs less one an expert.
    - `_matmul_ogs` of gate and up, then of down: row tiles by pairs an expert, a split of K where they are few; the
      rows of the input, tokens or pairs; the row tiles of all experts; tables of pairs that lie behind one another,
      which begin at a multiple of 16 bytes if their length is one of 4.
    - `pack_bitmatrix`, `_combined_routing_*`, which sort where we do not: twice the pairs, the tokens, blocks of 32 and
      of 128 of them.
    """
    pairs = tokens * top_k
    tile = min(max(_power_of_two(pairs // experts), _LEAST_TILE), _LARGEST_TILE)
    row_tiles = min(-(-pairs // tile), _MOST_ROW_TILES)
    tiles = pairs if pairs <= experts else -(-(pairs - experts + 1) // tile) + experts - 1
    sorting = (4 * pairs <= experts, pairs < experts, tokens // experts > 128)
    yield "fused_moe", _step(tokens), *sorting, _kind(pairs), _kind(pairs - experts)
    yield "gate and up", tile, row_tiles, _kind(tokens), _kind(tiles), pairs % 4 == 0
    yield "down", tile, row_tiles, _kind(pairs), _kind(tiles), pairs % 4 == 0
    yield "routing", _kind(2 * pairs), _kind(tokens), _kind(-(-tokens // 32)), _kind(4 * -(-tokens // 128))


def _kind(integer: int) -> str:
    """Return what Triton compiles an integer argument for."""
    return "one" if integer == 1 else "aligned" if integer % _ALIGNED == 0 else "any"


def _step(tokens: int) -> tuple[int, int]:
    """Return which quarter of which octave a number lies in, upper ends included; all alike beyond the last bound.

    A number takes the tiles of the nearest number in the grid, the lower one in the middle, so that bounds lie a
    quarter and three quarters of an octave up; those of default tiles lie at its end and its half.
    """
    below = min(tokens - 1, _LAST_BOUND)
    octave = max(below.bit_length() - 1, 0)
    return octave, 4 * below >> octave


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def install_warmup(symbols: Mapping[str, Symbol]) -> None:
    """Let ours follow vLLM's warm-up of kernels; graphs come after it, and then the monitor is switched on.

    Before the graphs, because a workspace that grows after them leaves them pointing at memory that is gone.
    """
    seam = symbols["kernel_warmup"]
    original: Any = seam.resolve()

    @functools.wraps(original)
    def kernel_warmup(worker: Any, *, process_local_only: bool = False) -> None:
        original(worker, process_local_only=process_local_only)
        if not process_local_only:
            warm(worker, symbols)

    setattr(importlib.import_module(seam.module), seam.attribute, kernel_warmup)


def warm(worker: Any, symbols: Mapping[str, Symbol], clock: Callable[[], float] = time.perf_counter) -> None:
    """Run the worker's model with adapters at each of `warm_token_counts`, and its log-probabilities.

    Without adapters the base's kernels are the same ones, so a single run does. All ranks run the same numbers. An
    engine without LoRA, or one whose warm-up vLLM leaves out, is left alone.
    """
    config = worker.vllm_config
    if config.lora_config is None or not config.kernel_config.enable_jit_warmup:
        return
    if not worker.use_v2_model_runner:
        _log.warning("warm-up: left out, because it knows vLLM's model runner V2 alone; kernels compile while serving")
        return
    for name in _RESTED_ON:
        symbols[name].resolve()
    start = clock()
    with _counting() as kernels:
        counts = _warm_model(worker.model_runner, symbols)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    _log.info(
        "warm-up: %d token counts from %d to %d, %d kernels compiled, %d read from Triton's cache, %.1f s",
        len(counts), min(counts), max(counts), kernels["compiled"], kernels["read"], clock() - start,
    )  # fmt: skip


@torch.inference_mode()
def _warm_model(runner: Any, symbols: Mapping[str, Symbol]) -> list[int]:
    counts = _token_counts(runner, symbols)
    with runner.maybe_setup_dummy_loras(runner.lora_config):
        for tokens in reversed(counts):
            _run(runner, tokens, adapters=runner.lora_config.max_loras)
        hidden = _run(runner, counts[0], adapters=0)
        if hidden is not None and not runner.is_pooling_model:
            _warm_logprobs(runner, hidden[:_SAMPLED_ROWS], symbols)
    return counts


def _token_counts(runner: Any, symbols: Mapping[str, Symbol]) -> list[int]:
    """Return the numbers of tokens for all shapes of MoE layers in the model, in ascending order."""
    moe_layer: Any = symbols["moe_layer"].resolve()
    configs = [module.moe_config for module in runner.get_model().modules() if isinstance(module, moe_layer)]
    shapes = {
        (config.experts_per_token, experts)
        for config in configs
        for experts in (config.num_experts, config.num_local_experts)
    }
    first, most = _first_eager(runner), runner.max_num_tokens
    counts = {min(first, most)}
    for top_k, experts in shapes:
        counts.update(warm_token_counts(most, first=first, top_k=top_k, experts=experts))
    return sorted(counts)


def _first_eager(runner: Any) -> int:
    """Return how many tokens the smallest batch has that no graph takes."""
    mixed = runner.cudagraph_manager.cudagraph_mode.mixed_mode()
    sizes: list[int] = runner.compilation_config.cudagraph_capture_sizes or []
    return max(sizes) + 1 if mixed.value and sizes else 1


def _run(runner: Any, tokens: int, *, adapters: int) -> Any:
    """Run the model on random tokens, as vLLM's own tuning does; return the hidden states of the last of each request.

    A dummy run that is no profile marks every token as padding, and those go to no expert.
    """
    with _dummy_adapters_kept(runner, adapters):
        _, last = runner._dummy_run(tokens, is_profile=True, randomize_inputs=True, skip_eplb=True)
    return last


@contextmanager
def _dummy_adapters_kept(runner: Any, active: int) -> Generator[None]:
    """Let dummy runs take `active` of the dummy adapters that are loaded, where each would load its own anew."""

    def select(lora_config: Any, num_scheduled_tokens: Any, **_: Any) -> Any:
        return runner.maybe_select_dummy_loras(lora_config, num_scheduled_tokens, num_active_loras=active)

    runner.maybe_dummy_run_with_lora = select
    try:
        yield
    finally:
        del runner.maybe_dummy_run_with_lora


def _warm_logprobs(runner: Any, hidden: Any, symbols: Mapping[str, Symbol]) -> None:
    """Compute the log-probabilities that a request may ask for, of its answer and its prompt; one kernel does both."""
    topk_scores: Any = symbols["topk_scores"].resolve()
    logits = runner.model.compute_logits(hidden)
    most = runner.model_config.max_logprobs
    sampled = torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device)
    for count in logprob_counts(logits.shape[1] if most == -1 else min(most, logits.shape[1])):
        topk_scores(logits, count, sampled)


@contextmanager
def _counting() -> Generator[Counter[str]]:
    """Count the kernels that Triton compiles and those that it reads from its cache."""
    knobs: Any = importlib.import_module("triton.knobs")  # by name: vLLM's CPU build has no Triton
    before, found = knobs.compilation.listener, Counter[str]()

    def listen(**event: Any) -> None:
        found["read" if event["cache_hit"] else "compiled"] += 1
        if before is not None:
            before(**event)

    knobs.compilation.listener = listen
    try:
        yield found
    finally:
        knobs.compilation.listener = before
