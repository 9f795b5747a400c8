from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from support.files import entry, packed

from loractl_registry.errors import RegistryError
from loractl_registry.file_errors import MalformedSafetensorsError
from loractl_registry.safetensors_header import (
    ADAPTER_LIMITS,
    BASE_LIMITS,
    TensorInfo,
    open_safetensors_header,
    parse_header,
)

GOOD = {"a.lora_A.weight": entry("BF16", [2, 3], 0, 12), "a.lora_B.weight": entry("F32", [1], 12, 16)}
DATA = bytes(16)


def _write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    return path


def _one(**changes: object) -> dict[str, object]:
    return {"a": {**entry("BF16", [2, 4], 0, 16), **changes}}


def test_header_gives_every_tensor_and_where_the_data_begins(tmp_path):
    found = open_safetensors_header(_write(tmp_path, packed({**GOOD, "__metadata__": {"format": "pt"}}, DATA)))

    assert found.tensors == {
        "a.lora_A.weight": TensorInfo("BF16", (2, 3), 0, 12),
        "a.lora_B.weight": TensorInfo("F32", (1,), 12, 16),
    }
    assert found.metadata == {"format": "pt"}
    assert found.data_offset + 16 == (tmp_path / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "shorter than the length", id="empty"),
        pytest.param(b"\x01\x02", "shorter than the length", id="two-bytes"),
        pytest.param(struct.pack("<Q", 2**64 - 1) + b"{}", "claims 18446744073709551615 bytes", id="header-bomb"),
        pytest.param(struct.pack("<Q", 17 * 2**20) + b"{}", "at most 16777216", id="header-above-cap"),
        pytest.param(struct.pack("<Q", 500) + b"{}", "claims 500 bytes and the file has 10", id="header-past-end"),
        pytest.param(packed(b" {}"), "does not start with '{'", id="leading-blank"),
        pytest.param(packed(b"{"), "not JSON", id="not-json"),
        pytest.param(packed(b"{\xff}"), "not UTF-8", id="not-utf8"),
        pytest.param(packed(b"{} x"), "not JSON", id="trailing-text"),
        pytest.param(packed(b'{"a":' + b"[" * 200_000), "nested too deeply", id="deep"),
        pytest.param(packed(b'{"a": NaN}'), "NaN", id="nan"),
        pytest.param(packed(b'{"a": ' + b"9" * 5000 + b"}"), "5000 digits", id="huge-number"),
        pytest.param(packed(b'{"a": {}, "a": {}}'), "has the key 'a' twice", id="duplicate-key"),
        pytest.param(packed({"__metadata__": []}), "must be an object of texts", id="metadata-list"),
        pytest.param(packed({"__metadata__": {"a": 1}}), "must be a text", id="metadata-number"),
        pytest.param(packed({"__metadata__": {"a": "\ud800"}}), "half a surrogate", id="metadata-surrogate"),
        pytest.param(packed({"a": 1}), "must have dtype, shape and data_offsets", id="entry-number"),
        pytest.param(packed(_one(more=1), DATA), "must have dtype", id="unknown-key"),
        pytest.param(packed(_one(dtype="I64"), DATA), "its dtype is 'I64'", id="integers"),
        pytest.param(packed(_one(dtype=["F32"]), DATA), "its dtype is", id="dtype-list"),
        pytest.param(packed(_one(shape="8"), DATA), "its shape is '8'", id="shape-text"),
        pytest.param(packed(_one(shape=[8.0]), DATA), "its shape is", id="shape-float"),
        pytest.param(packed(_one(shape=[True, 8]), DATA), "its shape is", id="shape-bool"),
        pytest.param(packed(_one(shape=[-1, -8]), DATA), "its shape is", id="shape-negative"),
        pytest.param(packed(_one(shape=[2**63 - 1, 0]), DATA), "with an absurd 9223372036854775807", id="absurd"),
        pytest.param(packed(_one(shape=[2**32, 2**32]), DATA), "more than", id="overflowing"),
        pytest.param(packed(_one(shape=[0, 8], data_offsets=[0, 0])), "with an absurd 0", id="empty-tensor"),
        pytest.param(packed(_one(shape=[]), DATA), "0 axes", id="scalar"),
        pytest.param(packed(_one(shape=[1] * 5), DATA), "5 axes", id="five-axes"),
        pytest.param(packed(_one(shape=[9]), DATA), "takes 18 bytes", id="shape-and-offsets-disagree"),
        pytest.param(packed(_one(data_offsets=[16, 0]), DATA), "must be a start and an end", id="reversed"),
        pytest.param(packed(_one(data_offsets=[0, 16, 32]), DATA), "must be a start and an end", id="three-offsets"),
        pytest.param(packed(_one(data_offsets=[8, 24]), bytes(24)), "leaves a hole", id="hole-first"),
        pytest.param(packed(GOOD, DATA[:-1]), "is truncated", id="truncated"),
        pytest.param(packed(GOOD, DATA + b"#!/bin/sh"), "has more after them", id="trailing-data"),
        pytest.param(
            packed({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)), "overlaps", id="overlap"
        ),
        pytest.param(
            packed({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 12, 16)}, DATA), "leaves a hole", id="hole"
        ),
        pytest.param(
            packed({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 0, 8)}, bytes(8)), "overlaps", id="same-bytes"
        ),
    ],
)
def test_malformed_file_is_refused_and_says_why(tmp_path, content, message):
    with pytest.raises(MalformedSafetensorsError) as caught:
        open_safetensors_header(_write(tmp_path, content))

    assert message in str(caught.value)
    assert "adapter_model.safetensors" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["", "../../etc/x", "/etc/x", "a\\b", "a\nb", "a\x00b", "a b", "a..b", "\u202eevil", "ä", "x" * 513, "\x7f"],
)
def test_hostile_tensor_name_is_refused(tmp_path, name):
    with pytest.raises(MalformedSafetensorsError, match="its name"):
        open_safetensors_header(_write(tmp_path, packed({name: entry("F32", [1], 0, 4)}, bytes(4))))


def test_half_a_million_tensors_are_refused(tmp_path):
    rows = {f"t{number}": 0 for number in range(500_000)}

    with pytest.raises(MalformedSafetensorsError, match="it has 500000 tensors"):
        open_safetensors_header(_write(tmp_path, packed(rows)))


def test_message_about_a_hostile_value_stays_short(tmp_path):
    with pytest.raises(MalformedSafetensorsError) as caught:
        open_safetensors_header(_write(tmp_path, packed(_one(dtype="\x1b[31m" + "x" * 10_000), DATA)))

    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_link_is_not_followed(tmp_path):
    target = _write(tmp_path, packed(GOOD, DATA))
    link = tmp_path / "link.safetensors"
    link.symlink_to(target)

    with pytest.raises(RegistryError):
        open_safetensors_header(link)


def test_base_limits_take_quantised_and_empty_tensors():
    rows = {
        "blocks": entry("U8", [3], 0, 3),
        "scales": entry("F8_E8M0", [1], 3, 4),
        "nibbles": entry("F4", [4], 4, 6),
        "empty": entry("F32", [0], 6, 6),
        "scalar": entry("I64", [], 6, 14),
    }

    assert set(parse_header(json.dumps(rows).encode(), 14, "m", limits=BASE_LIMITS).tensors) == set(rows)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_ROWS = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets"]) | st.text(max_size=4),
    st.sampled_from(["F32", "BF16"]) | st.lists(st.integers(-1, 64), max_size=3) | _VALUES,
    max_size=4,
)


@given(st.binary(max_size=300), st.integers(0, 2**40))
def test_any_bytes_give_a_header_or_a_registry_error(data, size):
    _parse_or_refuse(data, size)


@given(st.dictionaries(st.text(max_size=12), _ROWS | _VALUES, max_size=4), st.integers(0, 512))
def test_any_json_gives_a_header_or_a_registry_error(rows, size):
    _parse_or_refuse(json.dumps(rows).encode(), size)


@given(st.data())
def test_any_flipped_byte_of_a_good_header_gives_a_header_or_a_registry_error(data):
    header = bytearray(json.dumps(GOOD).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))

    _parse_or_refuse(bytes(header), len(DATA))


def _parse_or_refuse(data: bytes, size: int) -> None:
    with suppress(RegistryError):
        found = parse_header(data, size, "file")
        assert sum(info.size_bytes for info in found.tensors.values()) == size


_SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
_NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\./"), min_size=1, max_size=20)


@given(
    st.dictionaries(_NAMES, st.tuples(st.sampled_from(sorted(ADAPTER_LIMITS.dtypes)), _SHAPES), max_size=6),
    st.integers(0, 9),
)
def test_accepted_header_reads_the_same_in_the_safetensors_library(tmp_path_factory, rows, padding):
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, shape) in rows.items():
        size = int(dtype.removeprefix("B").removeprefix("F").partition("_")[0]) // 8
        for dimension in shape:
            size *= dimension
        header[name] = entry(dtype, shape, position, position + size)
        position += size
    path = tmp_path_factory.mktemp("same") / "m.safetensors"
    path.write_bytes(packed(json.dumps(header).encode() + b" " * padding, bytes(position)))

    found = open_safetensors_header(path)

    with safe_open(path, "numpy") as library:
        assert set(library.keys()) == set(found.tensors)
        for name, info in found.tensors.items():
            part = library.get_slice(name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (info.dtype, info.shape)


def test_file_that_the_library_wrote_is_accepted(tmp_path):
    import numpy as np

    path = _write(tmp_path, save({"b": np.ones((2, 3), np.float32), "a": np.ones(5, np.float16)}, {"format": "pt"}))

    assert set(open_safetensors_header(path).tensors) == {"a", "b"}
