"""Convert between a llama in a GGUF file and a folder for `mlx_lm.load`, with neither torch nor mlx."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fusery.storage.errors import FormatError
from fusery.storage.failures import os_failures
from fusery.storage.safetensors import build_header

from ..engine.arithmetic import BF16, FORMATS, Array, decode, encode
from ..engine.matrices import StoredMatrix
from ..errors import BadInputError, MissingExtraError
from .gguf_header import MAGIC, GGUFHeader, TensorEntry, read_header
from .gguf_llama import ROPE_FACTORS, model_config, placements, read_llama
from .gguf_tokenizer import convert_tokenizer

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
# Weights in memory at a time: 4 MiB as float32, and a few times that while they are converted.
BLOCK_WEIGHTS = 1 << 20


class GGUFWeights:
    """The tensors of an open GGUF file."""

    def __init__(self, path: Path, file: BinaryIO, header: GGUFHeader) -> None:
        try:
            from gguf.constants import GGML_QUANT_SIZES
        except ImportError as error:
            raise MissingExtraError("reading a GGUF file", "gguf") from error
        self._path, self._file, self._header = path, file, header
        self._sizes = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items() if kind.name in KINDS}

    def check(self, entry: TensorEntry) -> None:
        """Check that `entry` can be dequantised and is inside the file."""
        if entry.kind not in self._sizes:
            raise BadInputError(f"ggml type of {entry.name}: {entry.kind} (allowed: {', '.join(KINDS)})")
        block, _ = self._sizes[entry.kind]
        if entry.shape[-1] % block:
            raise FormatError(f"{entry.name} has rows of {entry.shape[-1]}, not a multiple of {block}")
        end = self._header.data_start + entry.offset + math.prod(entry.shape[:-1]) * self._row_bytes(entry)
        if end > self._header.file_size:
            raise FormatError(f"{self._path.name} is cut short: {entry.name} goes beyond the end of the file")

    def whole(self, entry: TensorEntry) -> Array:
        """Return a small tensor as float32, in its shape."""
        return np.concatenate(list(self._blocks(entry, None))).reshape(entry.shape)

    def bf16(self, entry: TensorEntry, head: int | None) -> Iterator[bytes]:
        """Yield a tensor's bytes as little-endian bf16, block by block, its rows in Hugging Face's order."""
        for values in self._blocks(entry, head):
            bits = encode(values, BF16)
            if ((bits & 0x7F80) == 0x7F80).any():
                raise FormatError(f"{entry.name} holds values that are NaN or infinite")
            yield bits.astype("<u2").tobytes()

    def _row_bytes(self, entry: TensorEntry) -> int:
        block, size = self._sizes[entry.kind]
        return int(entry.shape[-1] // block * size)

    def _blocks(self, entry: TensorEntry, head: int | None) -> Iterator[Array]:
        """Yield float32 [rows, width] blocks that are whole heads if the tensor has heads."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows, row_bytes = math.prod(entry.shape[:-1]), self._row_bytes(entry)
        if head is not None and len(entry.shape) == 1:
            rows, row_bytes = entry.shape[0], row_bytes // entry.shape[0]
        unit = head or 1
        step = max(1, BLOCK_WEIGHTS // (math.prod(entry.shape) // rows * unit)) * unit
        for start in range(0, rows, step):
            count = min(step, rows - start)
            raw = self._read(entry.offset + start * row_bytes, count * row_bytes).reshape(count, row_bytes)
            if head is not None:
                # llama.cpp turns [half, pair] into [pair, half] within each head (convert_hf_to_gguf.py, permute).
                raw = raw.reshape(-1, head // 2, 2, row_bytes).swapaxes(1, 2).reshape(count, row_bytes)
            with np.errstate(all="ignore"):
                yield dequantize(np.ascontiguousarray(raw), GGMLQuantizationType(entry.kind))

    def _read(self, offset: int, size: int) -> Array:
        with os_failures(f"read {self._path}", near=self._path):
            self._file.seek(self._header.data_start + offset)
            data = self._file.read(size)
        if len(data) != size:
            raise FormatError(f"{self._path.name} ended while it was read")
        return np.frombuffer(data, np.uint8)


def is_gguf(path: Path) -> bool:
    """Tell whether the file at `path` begins as GGUF does."""
    with os_failures(f"read {path}", near=path), path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def convert_gguf(path: Path, folder: Path) -> None:
    """Convert the llama in the GGUF file `path` into a Hugging Face and MLX folder."""
    # The same file gives the same bytes. Nothing is written before header, configuration and tokenizer are checked;
    # model.safetensors appears last and whole.
    with os_failures(f"read {path}", near=path):
        header = read_header(path)
        file = path.open("rb")
    with file:
        weights = GGUFWeights(path, file, header)
        model = read_llama(header)
        plan = placements(header, model)
        factors = header.tensors.get(ROPE_FACTORS)
        for entry in [entry for _, entry in plan] + ([factors] if factors else []):
            weights.check(entry)
        config = model_config(header, model, weights.whole(factors) if factors else None)
        tokenizer = convert_tokenizer(header.metadata, model.vocab, config["max_position_embeddings"])
        with os_failures(f"write {folder}", near=folder):
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise BadInputError(f"{folder} is not empty", hint="convert into a new folder")
            _write_json(folder / "config.json", {**config, **tokenizer.ids})
            _write_json(folder / "generation_config.json", tokenizer.ids)
            _write_json(folder / "tokenizer_config.json", tokenizer.config)
            (folder / "tokenizer.json").write_text(tokenizer.tokenizer, encoding="utf-8")
            part = folder / "model.safetensors.part"
            with part.open("wb") as out:
                entries = [(place.name, "BF16", place.shape) for place, _ in plan]
                out.write(build_header(entries, {"format": "mlx"}))
                for place, entry in plan:
                    out.writelines(weights.bf16(entry, place.head))
            part.rename(folder / "model.safetensors")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


# Formats of a model's matrices; what has one dimension is always f32, as llama.cpp wants it.
WRITTEN_KINDS = ("f32", "f16", "bf16", "q8_0")


def kind_of(matrix: StoredMatrix, wanted: str | None) -> str:
    """Return the ggml type that a tensor is written in."""
    if len(matrix.shape) < 2:
        return "F32"
    if wanted == "q8_0" and matrix.shape[-1] % 32:
        return "F16"  # as llama.cpp's own converter falls back
    return (wanted or matrix.form.name).upper()


def blocks(matrix: StoredMatrix, kind: str, head: int | None = None) -> Iterator[bytes]:
    """Yield a tensor's bytes in a ggml type; `head` is the rows of a head that llama.cpp wants interleaved."""
    unit, rows = head or 1, matrix.shape[0]
    step = max(1, BLOCK_WEIGHTS // (matrix.width * unit)) * unit
    for start in range(0, rows, step):
        stored = matrix.stored(start, min(step, rows - start))
        stored = np.ascontiguousarray(stored if head is None else interleaved(stored, head))
        yield stored.tobytes() if kind == matrix.form.name else _converted(matrix, stored, kind)


def _converted(matrix: StoredMatrix, stored: Array, kind: str) -> bytes:
    values = decode(stored, matrix.form)
    if kind == "Q8_0":
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        return bytes(quantize(values, GGMLQuantizationType.Q8_0).tobytes())
    with np.errstate(over="ignore"):
        encoded_values = encode(values, FORMATS[kind])
    if kind == "F16" and np.isinf(encoded_values.view(np.float16)).any() and np.isfinite(values).all():
        raise BadInputError(f"{matrix.name} holds numbers that f16 cannot", hint="-o gguf_type=bf16")
    return encoded_values.tobytes()


def interleaved(matrix: Array, head: int) -> Array:
    """Return rows as llama.cpp's rotary embedding wants them: [half, pair] becomes [pair, half] in each head."""
    # Source: `LlamaModel.permute` in llama.cpp's conversion/llama.py.
    return matrix.reshape(-1, 2, head // 2, *matrix.shape[1:]).swapaxes(1, 2).reshape(matrix.shape)
