"""Print the cost of quantised weights on a Linux CPU, after a fused model or bundle is made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fusery.registry.adapters.trained_through import is_merge_aware

if TYPE_CHECKING:
    from fusery.registry.bundles.materialize import Materialized
    from fusery.registry.records.fused import Fused

    from .session import Session

_RUN_BY_MLX = ("model", "archive", "docker", "oci", "hub")
"""Targets whose weights mlx reads without conversion."""


def say_cost_of_fused(session: Session, fused: Fused) -> None:
    """Print the cost of a fused model's quantised weights on this machine."""
    extras = "".join(f" --with {each.adapter}:{each.weight:g}" for each in fused.with_)
    scale = "" if fused.scale is None else f" --scale {fused.scale:g}"
    command = f"fusery fuse {fused.adapter}{scale}{extras} --precision dequantize"
    _say(session, None if is_merge_aware(fused.recipe) else command, quantized=fused.quantization is not None)


def say_cost_of_bundle(session: Session, bundle: Materialized) -> None:
    """Print the cost of a bundle's quantised weights on this machine, if mlx reads them."""
    command = f"fusery materialize {bundle.adapters[0]} DEST --target {bundle.target} --precision dequantize"
    quantized = bundle.quantized and bundle.target in _RUN_BY_MLX
    _say(session, None if bundle.merge_aware else command, quantized=quantized)


def _say(session: Session, command: str | None, *, quantized: bool) -> None:
    if quantized and _computes_on_linux_cpu():
        instead = "" if command is None else f" For 16 bits: {command}"
        session.say(
            "Note: on a Linux CPU such as this one, mlx answers about seven times slower with quantised weights than with"
            f" 16 bits.{instead}"
        )


def _computes_on_linux_cpu() -> bool:
    """Tell whether mlx computes on this machine's CPU; False without mlx."""
    if sys.platform != "linux":
        return False
    try:
        import mlx.core as mx
    except ImportError:
        return False
    return bool(mx.default_device() == mx.cpu)
