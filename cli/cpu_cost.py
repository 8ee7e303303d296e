"""What quantised weights cost where mlx computes on a Linux CPU, said once a model is made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusery.registry.bundles.materialize import Materialized
    from fusery.registry.records.fused import Fused

    from .session import Session

_RUN_BY_MLX = ("model", "archive", "docker", "oci", "hub")
"""Targets whose weights mlx reads as they are."""


def say_cost_of_fused(session: Session, fused: Fused) -> None:
    """Say what a fused model's weights cost on this machine."""
    extras = "".join(f" --with {each.adapter}:{each.weight:g}" for each in fused.with_)
    command = f"fusery fuse {fused.adapter}{extras} --precision dequantize"
    _say(session, command, quantized=fused.quantization is not None)


def say_cost_of_bundle(session: Session, bundle: Materialized) -> None:
    """Say what a bundle's weights cost on this machine, if mlx reads them."""
    command = f"fusery materialize {bundle.adapters[0]} DEST --target {bundle.target} --precision dequantize"
    _say(session, command, quantized=bundle.quantized and bundle.target in _RUN_BY_MLX)


def _say(session: Session, command: str, *, quantized: bool) -> None:
    if quantized and _computes_on_linux_cpu():
        session.say(
            "Note: on a Linux CPU, as here, mlx answers about seven times slower with quantised weights than with 16 bits;"
            f" for such a machine: {command}"
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
