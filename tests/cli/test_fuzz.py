"""Whatever is typed, the answer is a result or one clear refusal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli import clean_environment

from loractl.cli import main
from loractl.cli.completing import complete, split_line
from loractl.cli.grammar import TREE
from loractl.cli.style import clean, display_width, shorten, wrap

# What would start an engine, reach for the network, or change this account is left out.
COMMANDS = sorted(path for path in TREE if path not in ("serve", "demo", "completion install"))
FLAGS = sorted({flag for node in TREE.values() for option in node.options for flag in option.flags} - {"--home"})
WORDS = st.one_of(
    st.sampled_from(COMMANDS),
    st.sampled_from(FLAGS),
    st.sampled_from(
        ["support-bot", "support-bot@1", "poet@1", "tiny-moe", "live", "--", "-", "=", "@", "2h", "x" * 500]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=12).filter(lambda word: "hf:" not in word),
)


@pytest.fixture(scope="module")
def fuzzed_home(tmp_path_factory: pytest.TempPathFactory, lived_in_home: Path) -> Path:
    home = tmp_path_factory.mktemp("fuzz") / "home"
    shutil.copytree(lived_in_home, home)
    return home


def run(argv: list[str], home: Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    folder = home.parent / "cwd"
    folder.mkdir(exist_ok=True)
    with (
        mock.patch.dict(os.environ, clean_environment(home), clear=True),
        mock.patch.object(sys, "argv", ["loractl", *argv]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder),
    ):
        return int(main()), out.getvalue(), err.getvalue()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=st.sampled_from(COMMANDS), words=st.lists(WORDS, max_size=5), is_json=st.booleans())
def test_no_words_crash_a_command(fuzzed_home, command, words, is_json):
    code, out, err = run([*command.split(), *(["--json"] if is_json else []), *words], fuzzed_home)

    assert code in (0, 1, 2, 3, 4, 5)
    assert "Traceback" not in err
    assert "unexpected" not in err.partition(":")[2][:12]
    if is_json and code and err:
        assert set(json.loads(err)["error"]) == {"code", "message", "hint"}
    if is_json and not code and "--help" not in words and "-h" not in words and out.startswith(("{", "[")):
        json.loads(out)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, min_size=1, max_size=6))
def test_no_words_crash_completion(fuzzed_home, words):
    found = complete(TREE, words, {"LORACTL_HOME": str(fuzzed_home)})

    assert all(value.startswith(words[-1]) for value, _ in found.candidates)


@given(st.text())
def test_any_line_splits(line):
    assert len(split_line(line)) >= 1


@given(st.text(), st.integers(1, 30))
def test_any_text_fits_and_cannot_act(text, width):
    safe = clean(text)

    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in safe)
    assert display_width(shorten(safe, width)) <= width
    assert " ".join(" ".join(wrap(safe, width)).split()) == " ".join(safe.split())
