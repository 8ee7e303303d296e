from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile.headers import BEYOND, FORBIDDEN, SOUND, packed, two
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from fusery.storage import safetensors
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.safetensors import BITS, build_header, read_header, tensor_bytes

CORPUS = {**FORBIDDEN, **BEYOND}


@pytest.mark.parametrize("make", CORPUS.values(), ids=CORPUS.keys())
def test_hostile_headers_are_refused_in_one_sentence(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(make())
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert caught.value.message.startswith("evil.safetensors is not a valid safetensors file: ")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("begin", "fault"), [(3, "'b' overlaps"), (5, "'b' has a gap")])
def test_tensor_that_does_not_follow_the_one_before_is_named(begin: int, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(two((0, 4), (begin, 8), b"abcdefgh"))
    with pytest.raises(
        FormatError, match=rf"{fault} .*: it begins at byte \d+, and the data .* ends at byte"
    ):
        read_header(path)


@pytest.mark.parametrize("offsets", [[0], [0, 4, 4], ["0", 4], [0, 4.0], [-4, 0], 4, None, {"0": 0, "4": 4}])
def test_offsets_are_two_numbers(offsets: object, tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(
        packed(json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": offsets}}), b"abcd")
    )
    with pytest.raises(FormatError, match="data_offsets of 'a' are not"):
        read_header(path)


@pytest.mark.parametrize(("data", "cut"), [(b"abcdefg", True), (b"abcdefghi", False)])
def test_a_file_that_was_cut_short_is_told_from_a_longer_one(data: bytes, cut: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(two((0, 4), (4, 8), data))
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert ("cut short" in caught.value.message) == cut


@pytest.mark.parametrize(("data", "shapes"), SOUND.values(), ids=SOUND.keys())
def test_unusual_headers_are_read(data: bytes, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(data)
    header = read_header(path)
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == shapes
    assert list(header.tensors) == list(shapes)
    with safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == shapes.keys()


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
    with pytest.raises(FormatError):
        read_header(path, limit=10)


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
def test_invalid_header_is_not_built(entries: list[tuple[str, str, tuple[int, ...]]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        build_header(entries)


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    lambda name: name != safetensors.METADATA and unicodedata.is_normalized("NFC", name)
)
tensors = st.dictionaries(names, st.lists(st.integers(0, 4), max_size=4).map(tuple), max_size=6)
metadata = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=10), st.text(max_size=30)
)


@settings(deadline=None, max_examples=60)
@given(shapes=tensors, metadata=metadata)
def test_the_library_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("st") / "t.safetensors"
    start = build_header([(name, "F32", shape) for name, shape in shapes.items()], metadata)
    assert len(start) % 8 == 0
    path.write_bytes(start + bytes(4 * sum(map(math.prod, shapes.values()))))
    with safe_open(path, framework="numpy") as file:
        assert (file.metadata() or {}) == metadata
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == shapes  # noqa: SIM118
    header = read_header(path)
    assert {tensor.name: tensor.shape for tensor in header.tensors.values()} == shapes
    assert header.metadata == metadata
