"""Grammar-aware damage: JSON documents that are nearly right, and text that is no JSON any more.

Everything is drawn from a `random.Random`: a seeded one for `make soak`, Hypothesis' own for tests that shrink.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    text: str


class Pairs(list[tuple[str, Any]]):
    """A JSON object as a list, so that a key may occur twice."""


def tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((key, tree(item)) for key, item in value.items())
    return [tree(item) for item in value] if isinstance(value, list) else value


def text(value: Any, random: Random, space: bool = False) -> str:
    gap = (lambda: random.choice(("", "", "", " ", "\n", "\t "))) if space else (lambda: "")
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        parts = (f"{gap()}{_quoted(key, random)}:{gap()}{text(item, random, space)}" for key, item in value)
        return "{" + ",".join(parts) + gap() + "}"
    if isinstance(value, list):
        return "[" + ",".join(gap() + text(item, random, space) for item in value) + gap() + "]"
    return _quoted(value, random) if isinstance(value, str) else json.dumps(value)


def _quoted(value: str, random: Random) -> str:
    # The same text has several spellings, and a parser must know that they are one.
    if value and random.random() < 0.02:
        return '"' + "".join(f"\\u{unit:04x}" for unit in _units(value)) + '"'
    return json.dumps(value, ensure_ascii=random.random() < 0.5)


def _units(value: str) -> list[int]:
    data = value.encode("utf-16-le", "surrogatepass")
    return [int.from_bytes(data[place : place + 2], "little") for place in range(0, len(data), 2)]


NUMBERS = (
    0, 1, -1, 2, 3, 7, 8, 9, 16, 255, 256, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 53, 1 << 62, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), 0.0, 0.5, -0.0, 4.0, 1e-300, 1e300, 1e30, 1.5,
)  # fmt: skip
WORDS = (
    "", "0", "4", "v2", "auto", "lora", "dora", "full", "none", "all", "U8", "F32", "BF16", "F4", "u8", "mlx",
    "dtype", "shape", "data_offsets", "__metadata__", "rank", "scale", "keys", "r", "q_proj", "self_attn.q_proj",
    "model.layers.0.self_attn.q_proj", "../../etc/passwd", "a\0b", "a\nb", "\x1b[31m", "\x9b", "\u202e", "\ud800",
    "\udfff\ud800", "caf\u00e9", "cafe\u0301", "\U0001f600", "(a+)+$", ".*", "[", "x" * 600, "20260115", "NaN",
)  # fmt: skip
TOKENS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "-0.0", "01", "+1", "1.", ".5", "0x10", "1e5",
    "4e0", "tru", "True", "None", "nul", "'a'", "\"\\ud800\"", "\"\\x41\"", "\"\x01\"", "\"a", "[", "]", "{", "}",
    ",", ":", "", "//", "/**/", "9" * 50, "9" * 5000, "[" * 80 + "]" * 80, "[" * 3000 + "]" * 3000,
)  # fmt: skip


def strange(random: Random, depth: int = 2) -> Any:
    kind = random.randrange(10 if depth else 7)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 5:
        return random.choice(WORDS)
    if kind == 5:
        return random.choice((None, True, False))
    if kind == 6:
        return Raw(random.choice(TOKENS))
    if kind < 9:
        return [strange(random, depth - 1) for _ in range(random.randrange(4))]
    return Pairs((random.choice(WORDS), strange(random, depth - 1)) for _ in range(random.randrange(3)))


KINDS = (
    "replace", "replace", "nudge", "nudge", "nudge", "remove", "double", "swap", "exchange", "rename", "insert", "wrap",
)  # fmt: skip


def mutate(document: Any, random: Random) -> None:
    place = random.choice(_containers(document))
    is_object, kind = isinstance(place, Pairs), random.choice(KINDS)
    if not place or kind == "insert":
        value = strange(random)
        place.insert(random.randrange(len(place) + 1), (random.choice(WORDS), value) if is_object else value)
        return
    index, other = random.randrange(len(place)), random.randrange(len(place))
    value = _get(place, index)
    match kind:
        case "nudge" if isinstance(value, int) and not isinstance(value, bool):
            _set(place, index, value + random.choice((-8, -4, -2, -1, 1, 2, 4, 8, 1 << 32, 1 << 63)))
        case "nudge" if isinstance(value, str):
            spot = random.randrange(len(value) + 1)
            letter = random.choice(("", "x", ".", "\0", "\u0301", "\ud800"))
            _set(place, index, value[:spot] + letter + value[spot + 1 :])
        case "remove":
            del place[index]
        case "double":
            place.insert(other, place[index])
        case "swap":
            place[index], place[other] = place[other], place[index]
        case "exchange":
            _set(place, index, _get(place, other))
            _set(place, other, value)
        case "rename" if is_object:
            place[index] = (random.choice((*WORDS, *(key for key, _ in place))), value)
        case "wrap":
            _set(place, index, [value] if random.random() < 0.5 else Pairs([(random.choice(WORDS), value)]))
        case _:
            _set(place, index, strange(random))


def _containers(value: Any) -> list[list[Any]]:
    found: list[list[Any]] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Pairs):
            found.append(item)
            waiting += [inner for _, inner in item]
        elif isinstance(item, list):
            found.append(item)
            waiting += item
    return found


def _set(place: list[Any], index: int, value: Any) -> None:
    place[index] = (place[index][0], value) if isinstance(place, Pairs) else value


def _get(place: list[Any], index: int) -> Any:
    return place[index][1] if isinstance(place, Pairs) else place[index]


def garble(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        spot = random.randrange(len(changed) + 1)
        kind = random.randrange(5)
        if kind == 0 and spot < len(changed):
            changed[spot] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[spot : spot + random.randrange(1, 9)]
        elif kind == 2:
            changed[spot:spot] = changed[spot : spot + random.randrange(1, 17)]
        elif kind == 3:
            changed[spot:spot] = random.choice(
                (b"\0", b"{", b"}", b'"', b"\\", b"\xff", b",", b" ", b"\xef\xbb\xbf")
            )
        else:
            del changed[spot:]
    return bytes(changed)
