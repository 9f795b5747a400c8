import json

import pytest

from loractl_registry.provenance import MAX_FILE_BYTES, ProvenanceInput, joined, read_stated
from loractl_registry.records import Provenance
from loractl_registry.refusals import ProvenanceError


def written(tmp_path, value):
    file = tmp_path / "provenance.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def test_flag_wins_over_file_and_file_over_what_was_found(tmp_path):
    file = written(tmp_path, {"licence": "MIT", "note": "from the file", "author": "ada", "run": 7})
    found = Provenance("hf:o/r@c", commit="c", author="hub", licence="other", datasets=("card",))

    said = read_stated(ProvenanceInput(trained_on=("flag", "card"), note="from the flag", file=file))
    result = joined(found, said)

    assert (result.licence, result.note, result.author) == ("MIT", "from the flag", "ada")
    assert (result.source, result.commit) == ("hf:o/r@c", "c")
    assert result.datasets == ("card", "flag")
    assert result.extra == {"run": 7}


def test_nothing_said_leaves_what_was_found():
    found = Provenance("/a", licence="MIT", datasets=("d",), extra={"x": 1})

    assert joined(found, read_stated(ProvenanceInput())) == found


@pytest.mark.parametrize(
    "value",
    [
        "not json",
        "[1]",
        '"text"',
        '{"note": NaN}',
        "[" * 100_000,
        {"licence": 3},
        {"licence": ""},
        {"note": "x" * 2001},
        {"datasets": "one"},
        {"datasets": [1]},
        {"datasets": {"a": 1}},
    ],
    ids=lambda value: str(value)[:20],
)
def test_malformed_file_is_refused_with_a_way_out(tmp_path, value):
    with pytest.raises(ProvenanceError) as caught:
        read_stated(ProvenanceInput(file=written(tmp_path, value)))

    assert caught.value.hint


def test_file_of_a_megabyte_too_many_is_refused(tmp_path):
    with pytest.raises(ProvenanceError, match="larger"):
        read_stated(ProvenanceInput(file=written(tmp_path, "x" * (MAX_FILE_BYTES + 1))))


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Exception, match=r"absent\.json") as caught:
        read_stated(ProvenanceInput(file=tmp_path / "absent.json"))

    assert caught.value.code == "registry.storage"


@pytest.mark.parametrize("flag", [{"licence": " "}, {"note": ""}, {"trained_on": ("",)}])
def test_empty_flag_is_refused(flag):
    with pytest.raises(ProvenanceError):
        read_stated(ProvenanceInput(**flag))
