import io

from rich.console import Console

from loractl.demo.chat import Question
from loractl.demo.claims import Claim, Observation
from loractl.demo.narration import Narrator


def _told(*, width: int = 60, encoding: str = "utf-8", is_terminal: bool = False) -> tuple[Narrator, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return Narrator(Console(file=file, width=width, force_terminal=is_terminal, highlight=False)), raw


def test_long_command_stays_in_one_line_to_copy() -> None:
    narrator, raw = _told()

    narrator.command("loractl " + "word " * 40)

    assert raw.getvalue().decode().count("\n") == 1


def test_output_that_looks_like_markup_is_shown_as_it_is() -> None:
    narrator, raw = _told()

    narrator.output("[red]not a colour[/red] [1]")

    assert "[red]not a colour[/red] [1]" in raw.getvalue().decode()


def test_marks_are_words_where_only_ascii_can_be_shown() -> None:
    narrator, raw = _told(encoding="ascii")

    narrator.observed(Observation(Claim.STOPPED, is_seen=True, found="gone"))
    narrator.observed(Observation(Claim.STOPPED, is_seen=False, found="there"))

    assert "  ok " in raw.getvalue().decode("ascii")
    assert "  NOT OBSERVED: " in raw.getvalue().decode("ascii")


def test_streamed_answers_end_up_side_by_side() -> None:
    narrator, raw = _told()
    questions = [Question("base", "how?"), Question("pirate", "how?")]

    with narrator.streaming(questions) as texts:
        texts[questions[0]], texts[questions[1]] = "so", "Arr"

    row = next(line for line in raw.getvalue().decode().splitlines() if "how?" in line)
    assert row.index("so") < row.index("Arr")


def test_commands_get_a_width_only_on_a_terminal() -> None:
    assert _told(is_terminal=True)[0].columns == 56
    assert _told(is_terminal=False)[0].columns is None


def test_verdict_names_what_is_missing() -> None:
    narrator, raw = _told()

    narrator.verdict([Observation(Claim.ROLLED_BACK, is_seen=False, found="HTTP 404")], total=20, seconds=3)

    assert "1 of 20 claims were not observed" in raw.getvalue().decode()
    assert Claim.ROLLED_BACK.text in raw.getvalue().decode()
