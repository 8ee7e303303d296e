from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fusery.storage import safetensors
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.safetensors import BITS, build_header, read_header, tensor_bytes

GOOD = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def packed(header: str | bytes, data: bytes = b"abcd", length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> bytes:
    return packed(json.dumps({"t": GOOD | changes}))


def named(name: str) -> bytes:
    return packed(json.dumps({name: GOOD}))


def two(first: tuple[int, int], second: tuple[int, int], data: bytes) -> bytes:
    spans = {"a": first, "b": second}
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in spans.items()
    }
    return packed(json.dumps(header), data)


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\x01" * 7,
    "no header at all": (0).to_bytes(8, "little"),
    "header length 2^63": (1 << 63).to_bytes(8, "little") + b"{}",
    "header length 2^64-1": b"\xff" * 8 + b"{}",
    "header longer than the file": packed("{}", b"", length=3),
    "header over the limit": packed("{}" + " " * (16 << 20), b""),
    "not JSON": packed("hello"),
    "not UTF-8": packed(b'{"t\xff": 1}'),
    "UTF-16": packed("{}".encode("utf-16"), b""),
    "byte order mark": packed("\ufeff{}", b""),
    "a list": packed("[]", b""),
    "null": packed("null", b""),
    "a number": packed("1", b""),
    "garbage after the JSON": packed("{} x", b""),
    "two documents": packed("{}{}", b""),
    "body short by one": packed(json.dumps({"t": GOOD}), b"abc"),
    "bytes behind the tensors (polyglot)": packed(json.dumps({"t": GOOD}), b"abcdPK\x03\x04"),
    "data without tensors": packed("{}", b"abcd"),
    "hole at the start": two((1, 3), (3, 4), b"abcd"),
    "hole between": two((0, 1), (2, 4), b"abcd"),
    "overlap, the same bytes": two((0, 4), (0, 4), b"abcd"),
    "overlap, some bytes": two((0, 3), (2, 4), b"abcd"),
    "begin after end": entry(data_offsets=[4, 0]),
    "negative offset": entry(data_offsets=[-4, 0]),
    "float offsets": entry(data_offsets=[0, 4.0]),
    "three offsets": entry(data_offsets=[0, 2, 4]),
    "offsets as an object": entry(data_offsets={"0": 0}),
    "offset beyond 64 bits": entry(data_offsets=[0, 1 << 64]),
    "boolean offsets": entry(shape=[1], data_offsets=[False, True]),
    "shape does not fit": entry(shape=[5]),
    "shape overflows 64 bits": entry(shape=[1 << 62, 1 << 62]),
    "shape of a huge and an empty dimension": entry(shape=[1 << 62, 16, 0], data_offsets=[0, 0]),
    "dimension of 2^63": entry(shape=[1 << 63, 0], data_offsets=[0, 0]),
    "negative shape": entry(shape=[-1, -4]),
    "boolean shape": entry(shape=[True], data_offsets=[0, 1]),
    "float shape": entry(shape=[4.0]),
    "shape as text": entry(shape="4"),
    "nine dimensions": entry(shape=[1] * 8 + [4]),
    "unknown dtype": entry(dtype="U7"),
    "lower-case dtype": entry(dtype="u8"),
    "dtype as a list": entry(dtype=["U8"]),
    "half a byte": packed('{"t":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}', b"a"),
    "missing dtype": packed('{"t":{"shape":[4],"data_offsets":[0,4]}}'),
    "unknown key in an entry": entry(extra=1),
    "entry is null": packed('{"t":null}', b""),
    "entry is a list": packed('{"t":["U8",[4],[0,4]]}'),
    "duplicate tensor": packed('{"t":%s,"t":%s}' % ((json.dumps(GOOD),) * 2)),
    "duplicate metadata": packed('{"__metadata__":{},"__metadata__":{}}', b""),
    "duplicate key in metadata": packed('{"__metadata__":{"a":"1","a":"2"}}', b""),
    "duplicate key in an entry": packed('{"t":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}'),
    "metadata as a list": packed('{"__metadata__":[]}', b""),
    "metadata value a number": packed('{"__metadata__":{"a":1}}', b""),
    "nested metadata": packed('{"__metadata__":{"a":{"b":"c"}}}', b""),
    "metadata with half a character": packed('{"__metadata__":{"a":"\\ud800"}}', b""),
    "nested 100,000 deep, lists": packed("[" * 100_000 + "]" * 100_000, b""),
    "nested 100,000 deep, objects": packed('{"a":' * 100_000 + "1" + "}" * 100_000, b""),
    "number of 5,000 digits": packed('{"t":%s}' % ("9" * 5000), b""),
    "NaN": packed('{"t":NaN}', b""),
    "Infinity in the shape": packed('{"t":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,4]}}'),
    "more than 100,000 tensors": packed(
        json.dumps({str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_001)}),
        b"",
    ),
    "empty name": named(""),
    "name of 513 characters": named("n" * 513),
    "NUL in a name": named("a\0b"),
    "newline in a name": named("a\nb"),
    "escape in a name": named("a\x1b[31m"),
    "C1 control in a name": named("a\x9bb"),
    "half a character in a name": named("\ud800"),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "a zip": b"PK\x03\x04" + b"\0" * 60,
}

ACCEPTED: dict[str, tuple[bytes, dict[str, tuple[int, ...]]]] = {
    "no tensors": (packed("{}", b""), {}),
    "metadata null, as mlx writes it": (
        packed(json.dumps({"__metadata__": None, "t": GOOD})),
        {"t": (4,)},
    ),
    "spaces around": (packed("  " + json.dumps({"t": GOOD}) + "   "), {"t": (4,)}),
    "scalar": (packed('{"t":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'), {"t": ()}),
    "no bytes": (
        packed('{"t":{"dtype":"F32","shape":[1000000,0],"data_offsets":[0,0]}}', b""),
        {"t": (1000000, 0)},
    ),
    "unaligned data": (packed(" " + json.dumps({"t": GOOD})), {"t": (4,)}),
    "order of the data is not that of the header": (two((2, 4), (0, 2), b"abcd"), {"b": (2,), "a": (2,)}),
    "two four-bit numbers": (packed('{"t":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}'), {"t": (8,)}),
    "a name that is no path": (named("../../etc/passwd"), {"../../etc/passwd": (4,)}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers_are_refused_in_one_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert caught.value.message.startswith("evil.safetensors is not a valid safetensors file: ")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("data", "shapes"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_unusual_but_sound_headers_are_read(
    data: bytes, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(data)
    header = read_header(path)
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == shapes
    assert list(header.tensors) == list(shapes)


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(entry())
    assert read_header(path, limit=100).tensors
    with pytest.raises(FormatError, match="over the limit of 10"):
        read_header(path, limit=10)


@pytest.mark.parametrize("make", [lambda p: None, Path.mkdir, os.mkfifo], ids=["missing", "folder", "pipe"])
def test_what_is_not_a_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    make(path)
    with pytest.raises(MissingFileError):
        read_header(path)


def test_offsets_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(two((0, 1), (1, 4), b"abcd"))
    header = read_header(path)
    data = path.read_bytes()
    assert header.size == len(data)
    assert header.data_start == header.tensors["a"].begin
    assert data[header.tensors["b"].begin : header.tensors["b"].end] == b"bcd"
    assert header.tensors["b"].size == 3


def test_our_dtypes_are_those_of_the_library(tmp_path: Path) -> None:
    for dtype in BITS:
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(build_header([("t", dtype, (8,))]) + bytes(tensor_bytes(dtype, (8,))))
        with safe_open(path, framework="numpy") as file:
            assert file.get_slice("t").get_dtype() == dtype


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("a", "U8", (1,)), ("a", "U8", (1,))], "taken"),
        ([("__metadata__", "U8", (1,))], "taken"),
        ([("", "U8", (1,))], "0 characters"),
        ([("a\n", "U8", (1,))], "control"),
        ([("a", "U9", (1,))], "unknown"),
        ([("a", "F4", (3,))], "byte"),
    ],
)
def test_a_header_that_could_not_be_read_back_is_not_built(
    entries: list[tuple[str, str, tuple[int, ...]]], reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        build_header(entries)


NUMPY = {
    "U8": np.uint8,
    "I32": np.int32,
    "F16": np.float16,
    "F32": np.float32,
    "I64": np.int64,
    "BOOL": np.bool_,
}
names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    lambda name: name != safetensors.METADATA
)
tensors = st.dictionaries(
    names, st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 4), max_size=4)), max_size=6
)
metadata = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=10), st.text(max_size=30)
)


@settings(deadline=None, max_examples=60)
@given(tensors=tensors, metadata=metadata)
def test_the_library_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.mktemp("st") / "t.safetensors"
    entries = [(name, dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()]
    values = {name: np.ones(shape, NUMPY[dtype]) for name, dtype, shape in entries}
    start = build_header(entries, metadata)
    assert len(start) % 8 == 0
    path.write_bytes(start + b"".join(value.tobytes() for value in values.values()))
    found = load_file(path)
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    with safe_open(path, framework="numpy") as file:
        assert (file.metadata() or {}) == metadata
    header = read_header(path)
    assert [(t.name, t.dtype, t.shape) for t in header.tensors.values() if t.size] == [
        item for item, value in zip(entries, values.values(), strict=True) if value.nbytes
    ]
    assert header.metadata == metadata


@settings(deadline=None, max_examples=60)
@given(tensors=tensors, metadata=metadata)
def test_we_read_what_the_library_writes(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.mktemp("st") / "t.safetensors"
    values = {name: np.ones(shape, NUMPY[dtype]) for name, (dtype, shape) in tensors.items()}
    save_file(values, path, metadata=metadata or None)
    header = read_header(path)
    assert {t.name: (t.dtype, t.shape) for t in header.tensors.values()} == {
        name: (dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()
    }
    assert header.metadata == metadata
    data = path.read_bytes()
    for name, value in values.items():
        assert data[header.tensors[name].begin : header.tensors[name].end] == value.tobytes()


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=80))
def test_any_bytes_give_a_header_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("st") / "t.safetensors"
    for content in (data, packed(data[:60], data[60:])):
        path.write_bytes(content)
        try:
            header = read_header(path)
        except FormatError:
            continue
        assert header.size == len(content)
