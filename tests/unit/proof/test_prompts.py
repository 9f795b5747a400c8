"""Which prompts a proof asks, and in which order of preference."""

from __future__ import annotations

import pytest
from support.engine import _write_tokenizer

from loractl.proof import PromptsError, choose_prompts
from loractl.proof.prompts import MAX_PROMPTS, MAX_TOKENS, RANDOM_ROWS, card_prompts

CONFIG = {"vocab_size": 384}
CARD = "---\nlicense: mit\nwidget:\n- text: hello world how are you\n- text: ''\n- messages: []\n---\n# card\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    _write_tokenizer(folder)
    return folder


def test_generic_prompts_are_the_same_every_time_and_end_in_random_rows(base):
    one, other = choose_prompts(base, CONFIG), choose_prompts(base, CONFIG)

    assert one == other
    assert one.digest == other.digest
    assert one.source == "generic"
    assert len(one.rows) == 8 + RANDOM_ROWS
    assert all(2 <= len(row) <= MAX_TOKENS and max(row) < 384 for row in one.rows)


def test_base_without_a_tokenizer_gets_random_rows(tmp_path):
    found = choose_prompts(tmp_path, CONFIG)

    assert found.source == "random"
    assert len(found.rows) == 2 * RANDOM_ROWS


def test_card_of_the_adapter_comes_before_generic_ones(base, tmp_path):
    (tmp_path / "README.md").write_text(CARD)

    found = choose_prompts(base, CONFIG, adapter=tmp_path)

    assert found.source == "card"
    assert len(found.rows) == 1 + RANDOM_ROWS
    assert found.digest != choose_prompts(base, CONFIG).digest


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# no front matter",
        "---\nwidget: 3\n---\n",
        "---\nwidget: [1, {text: 2}]\n---\n",
        "---\n: : :\n---\n",
        "---\nx",
    ],
)
def test_card_without_usable_prompts_has_none(card, tmp_path):
    (tmp_path / "README.md").write_text(card)

    assert card_prompts(tmp_path) == ()


def test_card_behind_a_link_has_none(tmp_path):
    (tmp_path / "other.md").write_text(CARD)
    (tmp_path / "README.md").symlink_to(tmp_path / "other.md")

    assert card_prompts(tmp_path) == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "hello world\n\nhow are you today\n"), ("p.jsonl", '{"prompt": "hello world"}\n{"prompt": "x y"}')],
)
def test_file_comes_before_the_card(name, text, base, tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / name).write_text(text)

    found = choose_prompts(base, CONFIG, adapter=tmp_path, file=tmp_path / name)

    assert found.source == "file"
    assert len(found.rows) == 2 + RANDOM_ROWS


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.txt", b"\n\n", "no prompts"),
        ("p.txt", b"\xff\xfe", "cannot read"),
        ("p.txt", b"a\n" * (MAX_PROMPTS + 1), "more than"),
        ("p.jsonl", b"{}", "no text under prompt"),
        ("p.jsonl", b'{"prompt": "hello world"}\n{', "line 2"),
        ("p.txt", b"a", "two tokens"),
        ("missing.txt", None, "cannot read"),
    ],
)
def test_file_that_cannot_be_used_is_refused_and_named(name, data, message, base, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)

    with pytest.raises(PromptsError, match=message) as caught:
        choose_prompts(base, CONFIG, file=tmp_path / name)

    assert caught.value.hint


def test_file_for_a_base_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(PromptsError, match=r"no tokenizer\.json"):
        choose_prompts(tmp_path, CONFIG, file=tmp_path / "p.txt")


def test_broken_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")

    with pytest.raises(PromptsError, match=r"tokenizer\.json"):
        choose_prompts(tmp_path, CONFIG)


def test_base_without_a_vocabulary_is_refused(base):
    with pytest.raises(PromptsError, match="vocab_size"):
        choose_prompts(base, {})
