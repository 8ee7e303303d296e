"""Numbers as they are stored in a file, to and from MLX arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusery.registry.engine.arithmetic import BF16, F16, Array, Format


def mlx_type(form: Format) -> Any:
    import mlx.core as mx

    return {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}[form.name]


def to_mlx(stored: Array, form: Format) -> Any:
    import mlx.core as mx

    if form is F16:
        return mx.array(stored.view(np.float16))
    return mx.array(stored).view(mx.bfloat16) if form is BF16 else mx.array(stored)


def from_mlx(value: Any) -> Array:
    import mlx.core as mx

    return np.array(value) if value.dtype in (mx.float32, mx.uint32) else np.array(value.view(mx.uint16))
