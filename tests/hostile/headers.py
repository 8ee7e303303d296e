"""Safetensors files that are hostile, broken or odd, by name: bytes that are made when they are asked for.

`FORBIDDEN` break the format as its README and its reference reader's checks have it, `BEYOND` keep to it and are more
than anybody has a use for, `SOUND` are unusual and fine.
Source: https://github.com/huggingface/safetensors, README ("Format").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Make = Callable[[], bytes]
GOOD: dict[str, Any] = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


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


def crowd(count: int) -> bytes:
    entries = ",".join(f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(count))
    return packed("{" + entries + "}", b"")


def raw(**parts: str) -> bytes:
    words = {"dtype": '"U8"', "shape": "[4]", "data_offsets": "[0,4]"} | parts
    return packed('{"t":{' + ",".join(f'"{key}":{value}' for key, value in words.items()) + "}}")


_GOOD = json.dumps(GOOD)
_T = f'"t":{_GOOD}'
_DIGITS = "9" * 100_000

FORBIDDEN: Mapping[str, Make] = {
    "empty": lambda: b"",
    "header length 2^63": lambda: (1 << 63).to_bytes(8, "little") + b"{}",
    "header longer than the file": lambda: packed("{}", b"", length=3),
    "not JSON": lambda: packed("hello"),
    "spaces before the JSON": lambda: packed("  " + json.dumps({"t": GOOD})),
    "a comment": lambda: packed("{" + _T + "/* */}"),
    "body short by one": lambda: packed(json.dumps({"t": GOOD}), b"abc"),
    "bytes behind the tensors (polyglot)": lambda: packed(json.dumps({"t": GOOD}), b"abcdPK\x03\x04"),
    "data without tensors": lambda: packed("{}", b"abcd"),
    "hole at the start": lambda: two((1, 3), (3, 4), b"abcd"),
    "overlap, some bytes": lambda: two((0, 3), (2, 4), b"abcd"),
    "begin after end": lambda: entry(data_offsets=[4, 0]),
    "negative offset": lambda: entry(data_offsets=[-4, 0]),
    "offsets as an object": lambda: entry(data_offsets={"0": 0}),
    "offset beyond 64 bits": lambda: entry(data_offsets=[0, 1 << 64]),
    "boolean offsets": lambda: entry(shape=[1], data_offsets=[False, True]),
    "shape does not fit": lambda: entry(shape=[5]),
    "dtype does not fit": lambda: entry(dtype="F64"),
    "shape overflows 64 bits": lambda: entry(shape=[1 << 62, 1 << 62]),
    "shape of a huge and an empty dimension": lambda: entry(shape=[1 << 62, 16, 0], data_offsets=[0, 0]),
    "negative shape": lambda: entry(shape=[-1, -4]),
    "shape is null": lambda: entry(shape=None),
    "unknown dtype": lambda: entry(dtype="U7"),
    "dtype as a list": lambda: entry(dtype=["U8"]),
    "half a byte": lambda: packed('{"t":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}', b"a"),
    "missing dtype": lambda: packed('{"t":{"shape":[4],"data_offsets":[0,4]}}'),
    "unknown key in an entry": lambda: entry(extra=1),
    "entry is null": lambda: packed('{"t":null}', b""),
    "duplicate tensor": lambda: packed("{" + _T + "," + _T + "}"),
    "duplicate tensor, once written with escapes": lambda: packed("{" + _T + ',"\\u0074":' + _GOOD + "}"),
    "duplicate key in metadata": lambda: packed('{"__metadata__":{"a":"1","a":"2"}}', b""),
    "metadata as a list": lambda: packed('{"__metadata__":[]}', b""),
    "metadata value a number": lambda: packed('{"__metadata__":{"a":1}}', b""),
    "metadata with half a character": lambda: packed('{"__metadata__":{"a":"\\ud800"}}', b""),
    "half a character in a name": lambda: named("\ud800"),
    "raw control character in a name": lambda: packed(b'{"a\x01b":' + _GOOD.encode() + b"}"),
    "nested 100,000 deep in a shape": lambda: raw(shape="[" * 100_000 + "4" + "]" * 100_000),
    "dimension of 100,000 digits": lambda: raw(shape=f"[{_DIGITS}]"),
    "1e999 in the shape": lambda: raw(shape="[1e999]"),
}
"""Every one must be refused."""

BEYOND: Mapping[str, Make] = {
    "header of 16 MiB of spaces": lambda: packed("{}" + " " * (16 << 20), b""),
    "dimension of 2^63": lambda: entry(shape=[1 << 63, 0], data_offsets=[0, 0]),
    "nine dimensions": lambda: entry(shape=[1] * 8 + [4]),
    "a million dimensions": lambda: raw(shape="[" + "1," * 1_000_000 + "4]"),
    "more than 100,000 tensors": lambda: crowd(100_001),
    "a list of a million lists": lambda: packed('{"t":[' + "[]," * 2_000_001 + "[]]}"),
    "empty name": lambda: named(""),
    "name of 513 characters": lambda: named("n" * 513),
    "NUL in a name": lambda: named("a\0b"),
    "name that is not composed": lambda: named("cafe\u0301"),
}
"""Every one is refused here, though the format has no word against it."""


SOUND: dict[str, tuple[bytes, dict[str, tuple[int, ...]]]] = {
    "no tensors": (packed("{}", b""), {}),
    "metadata null, as mlx writes it": (packed(json.dumps({"__metadata__": None, "t": GOOD})), {"t": (4,)}),
    "spaces as padding": (packed(json.dumps({"t": GOOD}) + "   "), {"t": (4,)}),
    "scalar": (packed('{"t":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'), {"t": ()}),
    "no bytes": (packed('{"t":{"dtype":"F32","shape":[9,0],"data_offsets":[0,0]}}', b""), {"t": (9, 0)}),
    "order of the data is not that of the header": (two((2, 4), (0, 2), b"abcd"), {"b": (2,), "a": (2,)}),
    "a name that is no path": (named("../../etc/passwd"), {"../../etc/passwd": (4,)}),
}
"""File, and the shapes that are read from it, in the order of the data."""
