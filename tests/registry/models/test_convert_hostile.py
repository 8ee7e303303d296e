"""Hostile GGUF files: each is refused, before anything is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_llama import HEAD_DIM, HIDDEN, VOCAB, bf16_values, gguf_tensors, hf_weights, write_gguf

from fusery.registry.errors import BadInputError
from fusery.registry.models.gguf_convert import convert_gguf, is_gguf
from fusery.storage.errors import FormatError, FuseryError, MissingFileError


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def header(tensor_count: int, key_count: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, key_count) + rest


def key(name: bytes, kind: int, value: bytes = b"") -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


TENSOR = struct.pack("<Q", 1) + b"t"
NAN = struct.pack("<f", float("nan"))
BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "other magic": lambda data: b"GGML" + data[4:],
    "cut in counts": lambda data: data[:20],
    "cut in metadata": lambda data: data[:300],
    "cut in weights": lambda data: data[:-4096],
    "array of 2**60": lambda data: header(0, 1, key(b"a", 9, struct.pack("<IQ", 0, 1 << 60))),
    "array beyond the end": lambda data: header(0, 1, key(b"a", 9, struct.pack("<IQ", 4, 2_000_000))),
    "nested array": lambda data: header(0, 1, key(b"a", 9, struct.pack("<IQ", 9, 1))),
    "unknown type": lambda data: header(0, 1, key(b"a", 99)),
    "alignment 3": lambda data: header(0, 1, key(b"general.alignment", 4, b"\3\0\0\0")),
    "2**31 dimensions": lambda data: header(1, 0, TENSOR + struct.pack("<I", 1 << 31)),
    "overflow": lambda data: header(1, 0, TENSOR + struct.pack("<IQQIQ", 2, 1 << 33, 1 << 33, 0, 0)),
    "no metadata": lambda data: header(0, 0),
    "epsilon NaN": lambda data: patched(data, struct.pack("<f", 1e-5), NAN),
}


@pytest.mark.parametrize("spoil", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_refused(tmp_path: Path, good_bytes: bytes, spoil: Callable[[bytes], bytes]) -> None:
    (tmp_path / "bad.gguf").write_bytes(spoil(good_bytes))
    with pytest.raises((FormatError, BadInputError)) as caught:
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "folder")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "folder").exists()


def test_other_versions_and_byte_orders_are_named(tmp_path: Path, good_bytes: bytes) -> None:
    for form, number, named in (("<I", 1, "version 1"), (">I", 3, "little-endian")):
        (tmp_path / "bad.gguf").write_bytes(good_bytes[:4] + struct.pack(form, number) + good_bytes[8:])
        with pytest.raises(FormatError, match=named):
            convert_gguf(tmp_path / "bad.gguf", tmp_path / "folder")


def test_every_shortened_file_is_refused(tmp_path: Path, good_bytes: bytes) -> None:
    path = tmp_path / "short.gguf"
    for length in (
        *range(0, 200, 7),
        *np.random.default_rng(0).integers(200, len(good_bytes), 40),
        len(good_bytes) - 1,
    ):
        path.write_bytes(good_bytes[:length])
        with pytest.raises(FormatError):
            convert_gguf(path, tmp_path / "folder")


def test_random_damage_never_escapes_as_another_exception(tmp_path: Path, good_bytes: bytes) -> None:
    random = np.random.default_rng(1)
    path = tmp_path / "damaged.gguf"
    for attempt in range(40):
        data = bytearray(good_bytes)
        for position in random.integers(4, 12_000, 3):  # the header; damage to weights is just other weights
            data[position] = random.integers(256)
        path.write_bytes(data)
        try:
            convert_gguf(path, tmp_path / f"folder-{attempt}")
        except FuseryError as error:
            assert "\n" not in error.message


BAD_METADATA: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tokenizer: 'llama'", {"tokenizer.ggml.model": "llama"}),
    ("'tekken'", {"tokenizer.ggml.pre": "tekken"}),
    ("expert_count", {"llama.expert_count": 8}),
    ("block_count", {"llama.block_count": 1 << 30}),
    ("blk.2", {"llama.block_count": 3}),
    ("'blk.1", {"llama.block_count": 1}),
    ("head", {"llama.attention.head_count": 8}),
    ("key heads", {"llama.attention.head_count_kv": 3}),
    ("rope.dimension_count", {"llama.rope.dimension_count": 8}),
    ("'yarn'", {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}),
    ("shape", {"llama.vocab_size": 500}),
    ("1 different", {"tokenizer.ggml.tokens": ["a"] * VOCAB}),
    ("ggml.tokens", {"tokenizer.ggml.tokens": [1] * VOCAB}),
    ("'not-a token-here'", {"tokenizer.ggml.merges": ["not-a token-here"]}),
    ("eos_token_id", {"tokenizer.ggml.eos_token_id": VOCAB}),
)


def test_contradicting_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    for named, metadata in BAD_METADATA:
        with pytest.raises((FormatError, BadInputError)) as caught:
            convert_gguf(write_gguf(path, metadata=metadata), tmp_path / "folder")
        assert named in caught.value.message
        assert not (tmp_path / "folder").exists()
    with pytest.raises(BadInputError, match="'gemma3'"):
        convert_gguf(write_gguf(path, architecture="gemma3"), tmp_path / "folder")


def test_strange_tensors_are_refused(tmp_path: Path) -> None:
    good = gguf_tensors(hf_weights())
    ones: dict[str, Any] = {
        "blk.0.attn_q.weight": bf16_values((HIDDEN, HIDDEN + 32), 9) + 1,
        "blk.0.attn_q_norm.weight": bf16_values((HEAD_DIM,), 9) + 1,
        "rope_freqs.weight": bf16_values((HEAD_DIM // 2,), 9) + 1,
        "output_norm.weight": np.ones(HIDDEN, np.float64),
    }
    for number, (name, tensor) in enumerate(ones.items()):
        path = write_gguf(tmp_path / f"{number}.gguf", good | {name: tensor})
        with pytest.raises((FormatError, BadInputError)):
            convert_gguf(path, tmp_path / "folder")
    for value in (np.nan, np.inf):
        good["blk.1.ffn_up.weight"][3, 5] = value
        path = write_gguf(tmp_path / f"{value}.gguf", good)
        with pytest.raises(FormatError, match="blk.1.ffn_up.weight"):
            convert_gguf(path, tmp_path / str(value))
        assert not (tmp_path / str(value) / "model.safetensors").exists()


def test_folder_must_be_empty_and_files_be_there(tmp_path: Path, good_bytes: bytes) -> None:
    (tmp_path / "yes").write_bytes(good_bytes)
    (tmp_path / "no").write_bytes(b"GG")
    assert is_gguf(tmp_path / "yes")
    assert not is_gguf(tmp_path / "no")
    with pytest.raises(BadInputError):
        convert_gguf(tmp_path / "yes", tmp_path)
    for call in (is_gguf, lambda path: convert_gguf(path, tmp_path / "folder")):
        with pytest.raises(MissingFileError):
            call(tmp_path / "missing")
