"""Run folders as mlx-lm's trainer leaves them, made from tiny adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tiny_models

from fusery.registry import Registry


def register(registry: Registry, folder: Path, **facts: Any) -> Any:
    view = registry.adapters.register(folder, base="tiny", task="t", **facts)
    return registry.adapters.show(view["name"])


def make_run(
    folder: Path,
    base: Path,
    *,
    saved: Iterable[int] = (),
    iters: int = 1000,
    final: bool = True,
    log: str | None = None,
    **config: Any,
) -> Path:
    """Write a run: a checkpoint for each iteration in `saved`, the final weights, the configuration and a log."""
    iterations = sorted(saved)
    for iteration in iterations:
        made = tiny_models.make_adapter(folder, base, seed=iteration, rank=2, num_layers=1)
        shutil.copy(made / "adapters.safetensors", folder / f"{iteration:07d}_adapters.safetensors")
    if final and (not iterations or iterations[-1] != iters):
        tiny_models.make_adapter(folder, base, seed=iters, rank=2, num_layers=1)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "iters": iters, **config}), encoding="utf-8")
    if log is not None:
        (folder / "train.log").write_text(log, encoding="utf-8")
    return folder


def plain_log(val: Mapping[int, float], train: Mapping[int, float] | None = None) -> str:
    """Return what mlx-lm printed from 2024-12 to 0.31 (`tuner/trainer.py` at c3b4a158)."""
    lines = ["Starting training..., iters: 1000"]
    for iteration in sorted({*val, *(train or {})}):
        if iteration in val:
            lines.append(f"Iter {iteration}: Val loss {val[iteration]:.3f}, Val took 1.234s")
        if train and iteration in train:
            lines.append(
                f"Iter {iteration}: Train loss {train[iteration]:.3f}, Learning Rate 1.000e-04, It/sec 1.234, "
                f"Tokens/sec 123.456, Trained Tokens {iteration * 100}, Peak mem 1.234 GB"
            )
    return "\n".join(lines) + "\n"


def table_log(val: Mapping[int, float], train: Mapping[int, float] | None = None) -> str:
    """Return what mlx-lm prints since 0.32 (`cli_ui.py`: `TrainUI`), without colours."""
    lines = ["  iter   train_loss     tok/s     tokens"]
    for iteration in sorted({*val, *(train or {})}):
        if iteration in val:
            lines.append(f"  {iteration:>4}    val {val[iteration]:>5.3f}    {1.234:.2f}s")
        if train and iteration in train:
            tokens = f"{iteration * 100 / 1000:>5.1f}k"
            lines.append(f"  {iteration:>4}    {train[iteration]:>5.3f} ▼    {1234.5:>5,.0f}    {tokens}")
    return "\n".join(lines) + "\n"
