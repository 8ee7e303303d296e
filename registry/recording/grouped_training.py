"""Training of updates that are constant within the groups that the base is quantised in (QA-LoRA, Xu et al., arXiv:2309.14717).

A fused model at the base's size takes such an update up in its biases; its codes and scales stay.  QA-LoRA sums the inputs of a
group and has one row of A for the sum.  Here A has that row once for each input, which computes the same, and is a LoRA's that
mlx-lm saves and loads.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BadInputError


@cache
def grouped_kinds() -> dict[type, type]:
    """Return mlx-lm's LoRA layers, and those whose update is constant within the groups of their base, once they were begun."""
    from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

    class Linear(LoRALinear):  # type: ignore[misc]
        def __call__(self, *given: Any, **named: Any) -> Any:
            return _sharing(self, super().__call__, *given, **named)

    class SwitchLinear(LoRASwitchLinear):  # type: ignore[misc]
        def __call__(self, *given: Any, **named: Any) -> Any:
            return _sharing(self, super().__call__, *given, **named)

    return {LoRALinear: Linear, LoRASwitchLinear: SwitchLinear}


def begin_grouped(layer: Any) -> None:
    """Give all inputs of a group the row of A that the first of them has."""
    import mlx.core as mx

    rows, axis = _in_groups(layer.lora_a, layer.linear.group_size)
    first = mx.take(rows, mx.array([0]), axis=axis)
    layer.lora_a = mx.broadcast_to(first, rows.shape).reshape(layer.lora_a.shape)


def require_grouped(file: Path, size: int) -> None:
    """Refuse weights that training is to go on with, if their updates are not constant within groups of `size` inputs.

    Raises:
        BadInputError: they are not.
    """
    import mlx.core as mx

    loaded: Any = mx.load(str(file))
    for name, values in loaded.items():
        if name.rpartition(".")[2] == "lora_a" and not _is_constant(values, size):
            raise BadInputError(
                f"--qa-lora cannot go on from {file.name}: {name} is not constant within groups of {size} inputs",
                hint="leave out --resume-adapter-file, or give one that --qa-lora made on this base",
            )


def _is_constant(values: Any, size: int) -> bool:
    import mlx.core as mx

    if values.ndim not in (2, 3) or values.shape[0 if values.ndim == 2 else -1] % size:
        return False
    rows, axis = _in_groups(values, size)
    return bool(mx.all(rows == mx.take(rows, mx.array([0]), axis=axis)).item())


def _sharing(layer: Any, compute: Any, *given: Any, **named: Any) -> Any:
    """Compute with an A whose gradient is the same for all inputs of a group: what is equal and moves alike stays equal."""
    import mlx.core as mx

    kept = layer.lora_a
    rows, axis = _in_groups(kept, layer.linear.group_size)
    # The mean of equal numbers may differ from them in the last bit: its gradient is taken, and its value is not.
    mean = mx.mean(rows, axis=axis, keepdims=True)
    layer.lora_a = (mx.stop_gradient(rows) + (mean - mx.stop_gradient(mean))).reshape(kept.shape)
    try:
        return compute(*given, **named)
    finally:
        layer.lora_a = kept


def _in_groups(a: Any, size: int) -> tuple[Any, int]:
    """Return A, of shape (inputs, rank) or (experts, rank, inputs), with an axis more for the inputs of a group, and that axis."""
    if a.ndim == 2:
        return a.reshape(-1, size, a.shape[1]), 1
    return a.reshape(*a.shape[:-1], -1, size), a.ndim
