"""What ``loractl top`` shows of one look, and what its keys do."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.live import BOT, POET, LiveState

from loractl.cli.figures import amount, latency, long_time, percent
from loractl.cli.gpus import Gpus, GpuUse, load_nvml
from loractl.cli.keyboard import keys_in
from loractl.cli.style import Style
from loractl.cli.top_controls import Controls, foot_line, press
from loractl.cli.top_rows import Sample, SortBy, adapters_of, tenants_of
from loractl.cli.top_view import page_lines
from loractl.observability.definitions import OTHER, UNKNOWN
from loractl.observability.live_state import AdapterFacts, TenantFacts
from loractl.observability.outcomes import Outcome
from loractl.observability.rates import Quantile, window
from loractl.observability.series import LabelSet
from loractl.observability.state_document import parse_state

PLAIN = Style(has_colour=False, width=None)


def look(state: LiveState, *, gpus: tuple[GpuUse, ...] = ()) -> Sample:
    """Look, let some requests end, and look again."""
    before = parse_state(json.dumps(state.document()).encode())
    state.serve(BOT, times=6)
    state.serve(POET, times=2, first_s=3.0)
    state.metrics.begin(POET)
    state.clock.seconds += 1.0
    after = parse_state(json.dumps(state.document()).encode())
    return Sample(after, window(before, after), gpus)


def shown(sample: Sample, *, style: Style = PLAIN, room: int | None = None) -> list[str]:
    rows = (of(sample, sort=SortBy.TOKENS, text="") for of in (adapters_of, tenants_of))
    return list(page_lines(sample, *rows, style, room=room))


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        (SortBy.TOKENS, ["support-bot@3", "poet@1", "tiny-moe"]),
        (SortBy.RATE, ["support-bot@3", "poet@1", "tiny-moe"]),
        (SortBy.LATENCY, ["poet@1", "support-bot@3", "tiny-moe"]),
        (SortBy.ERRORS, ["poet@1", "support-bot@3", "tiny-moe"]),
        (SortBy.QUEUE, ["poet@1", "support-bot@3", "tiny-moe"]),
        (SortBy.NAME, ["poet@1", "support-bot@3", "tiny-moe"]),
    ],
)
def test_adapters_come_in_the_order_that_was_asked_for(sort, names):
    rows = adapters_of(look(LiveState()), sort=sort, text="")

    assert [row.name for row in rows] == names


def test_names_are_sorted_by_number_where_they_are_equal():
    state = LiveState()
    state.adapters = [AdapterFacts("bot", number, "approved") for number in (10, 9, 100)]

    names = [row.name for row in adapters_of(look(state), sort=SortBy.NAME, text="bot@")]

    assert [name for name in names if name.startswith("bot")] == ["bot@9", "bot@10", "bot@100"]


def test_look_without_a_window_shows_everybody():
    sample = look(LiveState())
    first = Sample(sample.state, None, ())

    assert [row.name for row in tenants_of(first, sort=SortBy.TOKENS, text="")] == ["acme", "zeta"]
    assert "- req/s" in shown(first)[1]


def test_what_has_no_row_of_its_own_is_spoken_of():
    state = LiveState()
    state.metrics.turned_away(LabelSet(UNKNOWN, "", UNKNOWN), Outcome.REFUSED_UNKNOWN)
    state.metrics.turned_away(LabelSet(OTHER, OTHER, OTHER), Outcome.REFUSED_KEY)

    text = "\n".join(shown(look(state)))

    assert "(unknown names)" in text
    assert "(all others)" in text


def test_gpus_have_a_line_each():
    sample = look(LiveState(), gpus=(GpuUse(0, "NVIDIA H200", 0.93, 120 * 10**9, 150 * 10**9),))

    assert "gpu 0  NVIDIA H200  busy 93%  memory 120 GB of 150 GB" in shown(sample)


@given(adapters=st.integers(0, 60), tenants=st.integers(0, 60), room=st.integers(13, 60), width=st.integers(80, 200))
def test_page_fits_its_room_and_counts_what_it_leaves_out(adapters, tenants, room, width):
    state = LiveState()
    state.adapters = [AdapterFacts("bot", number, "approved") for number in range(1, adapters + 1)]
    state.tenants = [TenantFacts(f"tenant-{number}") for number in range(tenants)]
    document = parse_state(json.dumps(state.document()).encode())

    lines = shown(Sample(document, None, ()), style=Style(has_colour=False, width=width), room=room)

    assert len(lines) <= room
    assert all(len(line) <= width for line in lines)
    more = sum(int(line[1:].split()[0]) for line in lines if line.endswith(" more)"))
    listed = [line for line in lines if line.startswith(("bot@", "tiny-moe ", "tenant-"))]
    assert len(listed) - 1 + more == adapters + 1 + tenants


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("s", Controls(sort=SortBy.RATE)),
        ("ssssss", Controls()),
        ("p", Controls(is_paused=True)),
        ("pp", Controls()),
        ("q", Controls(has_ended=True)),
        ("/ab", Controls(text="ab", is_typing=True)),
        ("/ab\x7fc\r", Controls(text="ac")),
        ("/ab\x15c\n", Controls(text="c")),
        ("/ab\x1b", Controls()),
        ("/q\rq", Controls(text="q", has_ended=True)),
        ("/ab\r\x1b", Controls()),
        ("x?\0", Controls()),
    ],
)
def test_keys_do_what_the_last_line_says(keys, wanted):
    controls = Controls()
    for key in keys:
        controls = press(controls, key)

    assert controls == wanted


@given(st.text(max_size=200))
def test_no_key_is_too_much(keys):
    controls = Controls()
    for key in keys:
        controls = press(controls, key)

    assert len(controls.text) <= 80
    assert foot_line(controls, PLAIN).isprintable()


def test_arrows_and_half_letters_are_no_keys():
    assert keys_in(b"a\x1b[A\x1b[1;5Cb\x1bOPc\x1b") == "abc\x1b"
    assert keys_in("é/".encode()[1:]) == "/"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.004, "0"),
        (0.35, "0.35"),
        (42.12, "42.1"),
        (100, "100"),
        (1500, "1500"),
        (15000, "15k"),
    ],
)
def test_amounts_are_short(value, text):
    assert amount(value) == text


def test_other_figures_are_short():
    assert (percent(None), percent(0.0), percent(0.0004), percent(0.125), percent(1)) == (
        "-",
        "0%",
        "<0.1%",
        "12.5%",
        "100%",
    )
    assert (latency(None), latency(Quantile(0.0352)), latency(Quantile(1.204))) == ("-", "35.2ms", "1.2s")
    assert latency(Quantile(60.0, is_beyond=True)) == ">60s"
    assert [long_time(each) for each in (42, 300, 12000, 190000)] == ["42s", "5m", "3h 20m", "2d 4h"]


class NvmlError(Exception):
    """What the library raises."""


class FakeNvml:
    """NVIDIA's library over two GPUs, of which one does not say how busy it is."""

    NVMLError = NvmlError

    def __init__(self, failing: str = "") -> None:
        self._failing = failing

    def _fail(self, name: str) -> None:
        if name == self._failing:
            raise NvmlError(name)

    def nvmlInit(self):  # noqa: N802
        self._fail("init")

    def nvmlDeviceGetCount(self):  # noqa: N802
        self._fail("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        self._fail("handle")
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return b"NVIDIA H200" if handle else "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=1, total=2)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        if handle:
            raise NvmlError
        return SimpleNamespace(gpu=50)


def test_gpus_say_what_they_can():
    assert Gpus(FakeNvml).now() == (GpuUse(0, "NVIDIA H200", 0.5, 1, 2), GpuUse(1, "NVIDIA H200", None, 1, 2))


@pytest.mark.parametrize("failing", ["count", "handle"])
def test_gpus_that_fail_are_none(failing):
    assert Gpus(lambda: FakeNvml(failing)).now() == ()


@pytest.mark.parametrize("module", [None, FakeNvml("init")], ids=["no-library", "no-driver"])
def test_machine_without_a_gpu_has_none(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)

    assert load_nvml() is None
    assert Gpus().now() == ()
