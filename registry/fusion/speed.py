"""How fast this machine computes with the weights of a format, measured once and kept in the cache folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import read_object
from fusery.storage.publishing import write_atomically

NOTICEABLE = 1.25  # smallest factor that `prefer=speed` acts on
_SIDE, _CHAIN, _RUNS = 2048, 4, 3  # a square matrix, so many products in a row, and the fastest of so many


def times_faster(cache: Path, quantization: Mapping[str, Any] | None) -> float:
    """Return how many times as fast mlx computes one token with 16 bits here as with a format; 1 without mlx or a format."""
    form = quantization or {}
    bits, group, mode = form.get("bits"), form.get("group_size"), form.get("mode", "affine")
    try:
        machine = f"{platform.node()}, {platform.machine()}, mlx {version('mlx')}"
    except PackageNotFoundError:
        return 1.0
    if bits not in (2, 3, 4, 5, 6, 8) or group not in (16, 32, 64, 128):
        return 1.0
    file, key = cache / "speed.json", f"{mode}-{bits}-{group}"
    recorded: Mapping[str, Any] = {}
    with suppress(FuseryError):
        recorded = read_object(file)
    times = recorded.get("times") if recorded.get("machine") == machine else None
    times = times if isinstance(times, dict) else {}
    if not isinstance(ratio := times.get(key), float) or not 0.001 < ratio < 1000:
        try:
            times[key] = _measured(bits, group, str(mode))
        except (ImportError, ValueError, RuntimeError):  # mlx has no such format, or cannot compute here
            return 1.0
        with suppress(FuseryError, OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({"machine": machine, "times": times}).encode())
    return float(times[key])


def _measured(bits: int, group: int, mode: str) -> float:
    import mlx.core as mx

    weight = mx.random.normal((_SIDE, _SIDE)).astype(mx.bfloat16)
    token = mx.random.normal((1, _SIDE)).astype(mx.bfloat16)
    form: Mapping[str, Any] = {"group_size": group, "bits": bits, "mode": mode}
    codes = mx.quantize(weight, **form)
    mx.eval(weight, token, *codes)

    def seconds(multiply: Callable[[Any], Any]) -> float:
        fastest = float("inf")
        for _ in range(_RUNS):
            started, value = time.perf_counter(), token
            for _ in range(_CHAIN):
                value = multiply(value)
            mx.eval(value)
            fastest = min(fastest, time.perf_counter() - started)
        return fastest

    quantised = seconds(lambda value: mx.quantized_matmul(value, *codes, transpose=True, **form))
    return round(quantised / seconds(lambda value: value @ weight.T), 2)
