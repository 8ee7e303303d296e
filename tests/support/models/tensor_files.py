"""Changing the tensors of a model or of an adapter on disk.  Import it as `from tensor_files import rewrite`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny_models

Change = Callable[[dict[str, tiny_models.Raw]], object]
_NUMPY = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32, "U32": np.uint32, "U8": np.uint8}


def load_raw(path: Path) -> dict[str, tiny_models.Raw]:
    """Return the tensors of a file or of a folder's weights as `tiny_models.write_tensors` takes them."""
    return {
        name: (dtype, np.frombuffer(data, _NUMPY[dtype]).reshape(shape).copy())
        for name, (dtype, shape, data) in tiny_models.read_tensors(path).items()
    }


def rewrite(folder: Path, change: Change, form: str = "mlx") -> None:
    """Change the tensors of a model or adapter of one file in place."""
    path = next(folder.glob("*.safetensors"))
    raw = load_raw(path)
    change(raw)
    tiny_models.write_tensors(path, raw, {"format": form})
