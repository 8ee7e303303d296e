"""What PEFT and mlx-lm compute of one adapter on models of transformers, to be held against one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from peft_folders import real_peft

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

Logits = np.ndarray[Any, Any]


def tokens(folder: Path) -> Path:
    """Write a few token numbers, the same each time."""
    np.save(folder / "tokens.npy", np.random.default_rng(1).integers(3, 300, (1, 24)))
    return folder / "tokens.npy"


def by_peft(base: Path, adapter: Path, scratch: Path) -> Logits:
    """Return the logits of PEFT's own forward with the adapter on its base."""
    real_peft("logits", base, adapter, tokens(scratch), scratch / "logits.npy")
    found: Logits = np.load(scratch / "logits.npy")
    return found[0]


def by_mlx(model: Path, scratch: Path) -> Logits:
    """Return the logits of mlx-lm's class in float32."""
    from fusery.registry.behaviour.models import Model

    return Model.load(model, numpy=False).run(np.load(tokens(scratch)).astype(np.int32))


def apart(one: Logits, other: Logits) -> float:
    """Return the largest difference, relative to the largest logit."""
    return float(np.abs(one[:, : other.shape[1]] - other).max() / np.abs(other).max())


def fused(registry: Registry, reference: str) -> Path:
    """Fuse an adapter as mlx-lm does it, and return the model's folder."""
    return Path(registry.fused.fuse(reference, FuseRequest("keep", accept_loss=True))["path"])
