"""Hostile and broken base models through `base add`: exit code 2 and nothing written, or no harm."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hostile import configurations, headers
from hostile.arena import Arena, Spoil, require_plain, sampled

Make = Callable[[], bytes]


def configured(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def indexed(document: Any) -> Spoil:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return lambda folder: (folder / "model.safetensors.index.json").write_bytes(text)


SPOILED: Mapping[str, Spoil] = {
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "pickled weights only": lambda folder: (folder / "model.safetensors").rename(
        folder / "pytorch_model.bin"
    ),
    "model_type as a list": configured(model_type=["llama"]),
    "NUL in the configuration": configured(note="a\0b"),
    "index of files that are not there": indexed({"weight_map": {"a": "model-00002-of-00002.safetensors"}}),
    "index of a file elsewhere": indexed({"weight_map": {"a": "../../../../etc/passwd"}}),
    "index with an escape sequence": indexed({"weight_map": {"a": "\x1b[2J.safetensors"}}),
    "index of a million tensors": indexed({"weight_map": dict.fromkeys(map(str, range(1_000_001)), "m")}),
    "one of a billion parts": lambda folder: (folder / "model.safetensors").rename(
        folder / "model-00001-of-999999999.safetensors"
    ),
    "the same tensors in two files": lambda folder: (folder / "model-2.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()
    ),
    "weights are a pipe": lambda folder: _pipe(folder / "model.safetensors"),
    "tokenizer is a link out of the folder": lambda folder: _link(folder / "tokenizer.json", "/etc/hostname"),
}

ODD: Mapping[str, Spoil] = {
    "bits 0": configured(quantization={"bits": 0, "group_size": 64}),
    "model_type as a path": configured(model_type="../../evil"),
    "model_type with an escape sequence": configured(model_type="\x1b[31m"),
    "code of its own": configured(auto_map={"AutoModel": "evil.Evil"}, model_file="evil.py"),
    "a billion layers of a model that mlx-lm rearranges": configured(
        model_type="mixtral", num_hidden_layers=10**9, num_local_experts=10**9
    ),
    "no numbers where mlx-lm wants some": configured(
        model_type="mixtral", hidden_size="wide", num_hidden_layers=None
    ),
}
"""What may be let in, since nothing of it is used before it is looked at again: no traceback, and no sequence."""


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def gguf(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def _string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _key(name: bytes, kind: int, value: bytes = b"") -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _string(name) + dimensions + struct.pack("<IQ", kind, offset)


_LLAMA = _key(b"general.architecture", 8, _string(b"llama"))

GGUF: Mapping[str, Make] = {
    "four letters": lambda: b"GGUF",
    "version 2^32-1": lambda: gguf(0, 0, version=(1 << 32) - 1),
    "cut in the counts": lambda: gguf(1, 1)[:20],
    "2^63 tensors": lambda: gguf(1 << 63, 0),
    "name of 2^62 bytes": lambda: gguf(0, 1, _string(b"", 1 << 62)),
    "name that is not UTF-8": lambda: gguf(0, 1, _key(b"\xff\xfe", 4, b"\0" * 4)),
    "the same key twice": lambda: gguf(0, 2, _key(b"a", 4, b"\0" * 4) * 2),
    "nested array": lambda: gguf(0, 1, _key(b"a", 9, struct.pack("<IQ", 9, 1))),
    "array of 2^60": lambda: gguf(0, 1, _key(b"a", 9, struct.pack("<IQ", 10, 1 << 60))),
    "array of texts beyond the end": lambda: gguf(
        0, 1, _key(b"a", 9, struct.pack("<IQ", 8, 4_000_000) + b"\0" * 800)
    ),
    "alignment 0": lambda: gguf(0, 1, _key(b"general.alignment", 4, struct.pack("<I", 0))),
    "2^31 dimensions": lambda: gguf(1, 0, _string(b"t") + struct.pack("<I", 1 << 31)),
    "shape that overflows": lambda: gguf(1, 0, _tensor(b"t", (1 << 32, 1 << 32))),
    "the same tensor twice": lambda: gguf(2, 0, _tensor(b"t", (1,)) * 2),
    "architecture with an escape sequence": lambda: gguf(
        0, 1, _key(b"general.architecture", 8, _string(b"\x1b[2J\x1b]0;owned\x07"))
    ),
    "a llama of one tensor": lambda: gguf(1, 1, _LLAMA + _tensor(b"token_embd.weight", (64, 320))),
    "offset 2^64-1": lambda: gguf(
        1, 1, _LLAMA + _tensor(b"token_embd.weight", (64, 320), offset=(1 << 64) - 1)
    ),
    "type of tensor unknown": lambda: gguf(
        1, 1, _LLAMA + _tensor(b"token_embd.weight", (64, 320), kind=1 << 31)
    ),
}
"""Every one must be refused."""


# What is too large for an adapter is not for a base.
HEADERS = {**headers.FORBIDDEN, **headers.BEYOND}
del HEADERS["header of 16 MiB of spaces"]
# Neither kind of key matters to a base, nor is every JSON object of a wrong type.
NOT_JSON = {
    name: make
    for name, make in configurations.NOT_JSON.items()
    if name not in ("3 MB of keys", "half a character as key")
}


@pytest.fixture
def model(arena: Arena, tmp_path: Path) -> Path:
    return Path(shutil.copytree(arena.base, tmp_path / "model"))


def writing(file: str, make: Make) -> Spoil:
    return lambda folder: (folder / file).write_bytes(make())


CORPORA = (
    ("model.safetensors", HEADERS, 6),
    ("config.json", NOT_JSON, 2),
    ("model.safetensors.index.json", NOT_JSON, 5),
)
REFUSED = {name: (spoil, "") for name, spoil in SPOILED.items()} | {
    f"{file}: {name}": (writing(file, make), "bad_format")
    for file, corpus, every in CORPORA
    for name, make in sampled(corpus, every).items()
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(arena: Arena, model: Path, case: str) -> None:
    spoil, code = REFUSED[case]
    spoil(model)
    assert arena.offer_base(model).startswith(code)


@pytest.mark.parametrize("make", GGUF.values(), ids=GGUF.keys())
def test_gguf_files(arena: Arena, tmp_path: Path, make: Make) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(make())
    assert arena.offer_base(path) in ("bad_format", "bad_input")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    root = tmp_path_factory.mktemp("other")
    return Arena(root / "home", root)


@pytest.mark.parametrize("spoil", ODD.values(), ids=ODD.keys())
def test_what_is_odd(arena: Arena, other: Arena, model: Path, spoil: Spoil) -> None:
    spoil(model)
    name = f"odd-{list(ODD.values()).index(spoil)}"
    for words in (("base", "add", model, "--name", name), ("base", "list"), ("base", "show", name)):
        ran = other.fusery(*words)
        require_plain(ran)
        assert ran.code in (0, 2), ran
