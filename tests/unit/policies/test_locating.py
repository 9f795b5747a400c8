"""Lines of keys: whatever tomllib reads is located, and nothing else."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loractl_registry.policies.locating import MAX_DEPTH, dotted, locate

PIECES = [
    *('"', "'", '"""', "'''", "\\", "#", "[", "]", "[[", "]]", "{", "}", ",", "=", ".", " ", "\t", "\n", "\n\n"),
    *(
        "a",
        "b",
        "1",
        "true",
        "a = 1",
        "a.b = 2",
        "[a]",
        "[[a]]",
        "[a.b]",
        '"a b"',
        '"\\u0061"',
        "x = [",
        "x = {",
        "\x00",
    ),
    *("# no [key] = 1", "x = '''", 'y = """', "1979-05-27 07:32:00", "é", "\\n", "\\\n"),
]

VALUES = [
    ("1", {}),
    ('"#[a] = \\" 1"', {}),
    ("'C:\\'", {}),
    ("1979-05-27 07:32:00Z", {}),
    ("'''\n[x]\ny = 1'''", {}),
    ('"""\\"""\n# no\n"" z """""', {}),
    ("[1, [2, 3]]", {(0,): 0, (1,): 0, (1, 0): 0, (1, 1): 0}),
    ("[ # ]\n  1,\n\n  'a', # x\n]", {(0,): 1, (1,): 3}),
    (
        "[\n  {a = 1, b.c = ['}']},\n  {},\n]",
        {(0,): 1, (0, "a"): 1, (0, "b"): 1, (0, "b", "c"): 1, (0, "b", "c", 0): 1, (1,): 2},
    ),
    ("{ x = { y = 2 }, 'z z' = 3 }", {("x",): 0, ("x", "y"): 0, ("z z",): 0}),
]


def paths(value, above=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in items:
        yield (*above, key)
        yield from paths(held, (*above, key))


@st.composite
def documents(draw):
    """Text and the lines of all its keys."""
    text, expected, arrays = "", {}, {}

    def blank():
        nonlocal text
        text += draw(st.sampled_from(["", "\n", "# [no] = 1\n", "  \n\t# 'x\n"]))

    for number in range(draw(st.integers(1, 4))):
        blank()
        line = text.count("\n") + 1
        form = draw(st.sampled_from(["[t{n}]", "[ 't {n}' . sub ] # c", "[[rows]]", "[t{n}.a.b]"]))
        match form:
            case "[t{n}]":
                table = (f"t{number}",)
            case "[[rows]]":
                arrays["rows"] = arrays.get("rows", -1) + 1
                table = ("rows", arrays["rows"])
            case "[t{n}.a.b]":
                table = (f"t{number}", "a", "b")
            case _:
                table = (f"t {number}", "sub")
        for end in range(1, len(table) + 1):
            expected.setdefault(table[:end], line)
        text += form.format(n=number) + "\n"
        for index in range(draw(st.integers(0, 4))):
            blank()
            value, inside = draw(st.sampled_from(VALUES))
            key = draw(st.sampled_from([(f"k{index}",), (f"k{index}", "sub")]))
            line = text.count("\n") + 1
            for end in range(1, len(key) + 1):
                expected.setdefault((*table, *key[:end]), line)
            expected |= {(*table, *key, *path): line + down for path, down in inside.items()}
            text += f"{'.'.join(key)} = {value}\n"
    return text, expected


@settings(deadline=None)
@given(documents())
def test_every_key_has_the_line_where_it_stands(document):
    text, expected = document

    located = locate(text)

    assert located.problem is None
    assert dict(located.lines) == expected
    assert set(paths(tomllib.loads(text))) == expected.keys()


@settings(deadline=None, max_examples=600)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_what_tomllib_reads_is_located_whole(text):
    located = locate(text)

    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    assert located.problem is None
    assert set(located.lines) == set(paths(values))


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_breaks_the_walk(text):
    assert all(1 <= line <= text.count("\n") + 1 for line in locate(text).lines.values())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\n\na = 2", 3),
        ('a = 1\n"\\u0061" = 2', 2),
        ("[a]\nb = 1\n[c]\n[a]", 4),
        ("x = {a = 1,\n a = 2}", 2),
        ("[[a]]\nb = 1\n[[a]]\nb = 1\nb = 2", 5),
    ],
)
def test_key_that_is_given_twice_is_found_where_it_stands_again(text, line):
    problem = locate(text).problem

    assert problem.line == line
    assert "is given twice, first in line" in problem.text


@pytest.mark.parametrize(
    "text",
    ["\n" + ".".join("a" * 40) + " = 1", "\n[" + ".".join("a" * 40) + "]", "\nx = " + "[" * 40, "\nx = " + "{a=" * 40],
)
def test_too_many_levels_are_refused_before_anything_recurses(text):
    problem = locate(text).problem

    assert (problem.line, problem.text) == (2, f"more than {MAX_DEPTH} levels of keys and brackets")


@pytest.mark.parametrize(
    "text", ['a = 1\n"\\q" = 2', "a = 1\n= 2", "a = 1\nb 2", "a = 1\n[b\nc = 1", "a = 1\nb = [1 2]"]
)
def test_walk_ends_where_the_text_is_surely_not_toml(text):
    assert ("a",) in locate(text).lines
    assert ("c",) not in locate(text).lines


def test_too_many_levels_are_counted_over_table_and_key():
    assert locate("[a.b.c.d.e.f]\ng.h.i.j.k.l = 1").problem is None
    assert locate("[a.b.c.d.e.f]\ng.h.i.j.k.l.m = 1").problem.line == 2


def test_path_is_written_as_a_user_would():
    assert dotted(("adapter", "evidence", 0, "metrics", "acc,none")) == 'adapter.evidence[0].metrics."acc,none"'
    assert dotted(('a"\n',)) == '"a\\"\\n"'
