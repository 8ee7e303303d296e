"""Damaged safetensors headers: refused in one sentence, or read as the library reads them; a million in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random, randrange
from typing import Any, Self

import pytest
from fuzz.mutate import Pairs, garble, mutate, text, tree
from safetensors import SafetensorError, deserialize

from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BITS, Header, build_header, read_header

_NAMES = (
    "t", "a", "b", "model.layers.0.self_attn.q_proj.lora_a", "model.layers.11.mlp.down_proj.lora_b", "x" * 60,
    "caf\u00e9", "\U0001f600", "../up", "a b", "__meta__", "0", "base_model.model.model.layers.0.q_proj.lora_A.weight",
)  # fmt: skip
_DTYPES = sorted(BITS)


def make(random: Random) -> bytes:
    header, data = _sound(random)
    damage = random.random()
    if 0.1 <= damage < 0.8:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            mutate(header, random)
    words = text(header, random, space=random.random() < 0.1)
    padding = random.choice((b"", b"", b"", b" ", b"      ", b"\n", b"\0"))
    if damage < 0.1:
        padding = b" " * random.randrange(9)
    body = words.encode("utf-8", "surrogatepass") + padding
    if 0.8 <= damage < 0.9:
        body = garble(body, random)
    length = len(body)
    if 0.9 <= damage < 0.95:
        length = random.choice(
            (0, 1, length - 1, length + 1, length + len(data), 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
        )
    file = max(length, 0).to_bytes(8, "little") + body + data
    if damage >= 0.95:
        file = garble(file, random)
    return file


def _sound(random: Random) -> tuple[Pairs, bytes]:
    entries: list[tuple[str, Any]] = []
    position = 0
    for name in random.sample(_NAMES, random.randrange(5)):
        dtype = random.choice(_DTYPES)
        shape = [random.randrange(5) for _ in range(random.randrange(4))]
        count = 1
        for size in shape:
            count *= size
        if count * BITS[dtype] % 8:
            shape, count = [8], 8
        end = position + count * BITS[dtype] // 8
        entries.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}))
        position = end
    random.shuffle(entries)
    if random.random() < 0.5:
        metadata = random.choice(({}, {"format": "mlx"}, {"format": "pt", "note": "a\nb"}, None))
        entries.insert(random.randrange(len(entries) + 1), ("__metadata__", metadata))
    return Pairs((name, tree(value)) for name, value in entries), bytes(position)


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def put(self, data: bytes) -> Path:
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))
        return self.path


def hold(file: bytes, place: Place) -> bool:
    path = place.put(file)
    try:
        header = read_header(path)
    except FormatError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 400, message
        return False
    _require_same(header, file)
    _require_round_trip(header, file, place)
    return True


def _require_same(header: Header, file: bytes) -> None:
    try:
        found = {
            name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
            for name, entry in deserialize(file)
        }
    except SafetensorError as error:
        raise AssertionError(f"the library refuses what we accept: {error}") from error
    ours = {
        tensor.name: (tensor.dtype, tensor.shape, file[tensor.begin : tensor.end])
        for tensor in header.tensors.values()
    }
    assert ours == found


def _require_round_trip(header: Header, file: bytes, place: Place) -> None:
    entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in header.tensors.values()]
    written = build_header(entries, header.metadata) + file[header.data_start :]
    again = read_header(place.put(written))
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in again.tensors.values()] == entries
    assert again.metadata == header.metadata
    assert written[again.data_start :] == file[header.data_start :]


SOAK = "FUSERY_SOAK" in os.environ
COUNT = 20_000 if SOAK else 5_000
FIRST = randrange(1 << 32) if SOAK else 1
SEEDS = range(FIRST, FIRST + (50 if SOAK else 1))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path / "t.safetensors") as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_many_headers(seed: int, place: Place) -> None:
    random = Random(seed)
    accepted = sum(hold(make(random), place) for _ in range(COUNT))
    # The fuzzer must reach both sides to be worth anything.
    assert COUNT // 20 < accepted < COUNT // 2
