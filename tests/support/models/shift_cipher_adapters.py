"""Adapters with an output of their own: each moves the letter before by a shift of its own, as Caesar's cipher does.

The base is a model of one-hot vectors that says the last letter again and again.  An adapter of rank r knows the first
r - 1 letters and answers each with the one `shift` further, in a circle, and a line's end with the letter at `shift`; so
whatever is asked, the answer tells which adapter gave it, and to which prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from safetensors.numpy import load_file, save_file

HIDDEN = 320
"""As many as there are tokens: each has a direction of its own."""

FIRST = ord("a")
_IDLE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
"""Layers whose output is multiplied by nothing: adapting them costs time and memory and changes no answer."""


def make_base(folder: Path, *, layers: int = 2, intermediate: int = 256, bits: int | None = None) -> Path:
    overrides = {"model.embed_tokens": False, "lm_head": False} if bits else None
    tiny_models.make_base(
        folder,
        dtype="float32",
        layers=layers,
        hidden=HIDDEN,
        intermediate=intermediate,
        bits=bits,
        overrides=overrides,
    )
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, value in tensors.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = np.eye(len(value), HIDDEN, dtype=np.float32)
        elif name == "model.norm.weight":
            tensors[name] = np.ones_like(value)
        elif ".o_proj." in name or ".down_proj." in name:
            tensors[name] = np.zeros_like(value)
    save_file(tensors, path, {"format": "mlx"})
    return folder


def make_adapter(
    folder: Path, base: Path, shift: int, *, rank: int = 27, idle: Sequence[str] = _IDLE[:1], seed: int = 0
) -> Path:
    """Write an adapter for the base of `make_base`, and return its folder."""
    tiny_models.make_adapter(folder, base, rank=rank, num_layers=-1, keys=[*idle, "lm_head"], seed=seed)
    letters = min(rank - 1, 26)
    a, b = np.zeros((HIDDEN, rank), np.float32), np.zeros((rank, HIDDEN), np.float32)
    for letter in range(letters):
        a[FIRST + letter, letter] = 1
        b[letter, FIRST + (letter + shift) % letters] = 1
    a[ord("\n"), letters] = 1
    b[letters, FIRST + shift % letters] = 1
    path = folder / "adapters.safetensors"
    save_file(load_file(path) | {"lm_head.lora_a": a, "lm_head.lora_b": b}, path)
    return folder


def answer(prompt: str, shift: int, length: int, *, rank: int = 27) -> str:
    """Return what an adapter says to a prompt that ends with one of its letters, or with a line's end."""
    letters = min(rank - 1, 26)
    place = 0 if prompt[-1] == "\n" else ord(prompt[-1]) - FIRST
    return "".join(chr(FIRST + (place + shift * (step + 1)) % letters) for step in range(length))


def chat_answer(shift: int, length: int, *, rank: int = 27) -> str:
    """Return what an adapter says in a chat, whose prompt ends with a line's end."""
    return answer("\n", shift, length, rank=rank)


def make_bundle(
    folder: Path, shifts: Sequence[int], *, base: Path | None = None, ranks: Sequence[int] = (), **more: Any
) -> Path:
    """Write `serving.json` with a base and an adapter `caesar_vN` for each shift, and return the folder."""
    if base is None:
        base = make_base(folder / "base")
    document = {"format": 1, "base": {"name": "echo", "folder": str(base)}, "adapters": [], **more}
    for version, shift in enumerate(shifts, 1):
        name = f"caesar_v{version}"
        rank = ranks[(version - 1) % len(ranks)] if ranks else 27
        make_adapter(folder / "adapters" / name, base, shift, rank=rank, seed=version)
        document["adapters"].append({"name": name, "folder": f"adapters/{name}", "digest": f"{version:064x}"})
    (folder / "serving.json").write_text(json.dumps(document))
    return folder
