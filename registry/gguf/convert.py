"""Convert a llama in a GGUF file into a folder that `mlx_lm.load` loads: bf16 weights, configuration, tokenizer.

Needs neither torch nor mlx: the `gguf` package's dequantisation, NumPy and `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusery.storage.failures import os_failures

from ..errors import BadInputError
from .header import MAGIC, read_header
from .llama import ROPE_FACTORS, model_config, placements, read_llama
from .read_tokenizer import convert_tokenizer
from .read_weights import GGUFWeights, write_weights


def is_gguf(path: Path) -> bool:
    """Tell whether the file at `path` begins as GGUF does.

    Raises:
        StorageError: it cannot be read.
    """
    with os_failures(f"read {path}", near=path), path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def convert_gguf(path: Path, folder: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Convert the llama in the GGUF file `path` into a Hugging Face and MLX folder.

    The same file gives the same bytes.  Weights are rounded to bf16, to nearest and even, and llama.cpp's interleaving
    of query and key rows is undone.  Nothing is written before header, configuration and tokenizer are found good;
    model.safetensors appears last and whole.

    Args:
        path: the GGUF file.
        folder: made if it does not exist; must be empty.
        progress: called with each tensor's name before it is written.

    Raises:
        BadInputError: a model, tokenizer or quantisation that is not converted, or a folder that is not empty.
        FormatError: the file is not GGUF, is cut short, or contradicts itself.
        MissingExtraError: `gguf` or `tokenizers` is not installed.
        StorageError: the operating system refused to read or write.
    """
    with os_failures(f"read {path}", near=path):
        header = read_header(path)
        file = path.open("rb")
    with file:
        weights = GGUFWeights(path, file, header)
        model = read_llama(header)
        plan = placements(header, model)
        factors = header.tensors.get(ROPE_FACTORS)
        for entry in [placement.entry for placement in plan] + ([factors] if factors else []):
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
            write_weights(folder / "model.safetensors", plan, weights, progress)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
