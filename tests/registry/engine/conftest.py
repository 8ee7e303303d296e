"""Fusing a tiny model both ways: with `mlx_lm.fuse` itself, and with the engine under test."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from fusery.registry.engine.calibration import (
    CalibrationFile,
    Directions,
    read_calibration,
    write_calibration,
)
from fusery.registry.engine.engine import FuseResult, fuse
from fusery.registry.engine.plan import FusePlan, make_plan
from fusery.storage.digest import Digest

MlxFuse = Callable[..., Path]
Planner = Callable[..., FusePlan]
OurFuse = Callable[..., tuple[Path, FuseResult]]


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def quiet() -> Iterator[None]:
    output, errors = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), output, errors:
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.make_base(tmp_path / "base", bits=4, layers=3)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tiny_models.make_base(tmp_path / "dense", layers=3)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)


@pytest.fixture
def mlx_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlxFuse:
    pytest.importorskip("mlx_lm")

    def run(base: Path, adapter: Path, *, dequantize: bool = False, name: str = "theirs") -> Path:
        folder = tmp_path / name
        arguments = ["mlx_lm.fuse", "--model", base, "--adapter-path", adapter, "--save-path", folder]
        monkeypatch.setattr(sys, "argv", [*map(str, arguments), *(["--dequantize"] if dequantize else [])])
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlx_lm.fuse import main

            main()
        return folder

    return run


@pytest.fixture
def planned(tmp_path: Path) -> Planner:

    def plan(
        base: Path,
        adapter: Path,
        precision: str = "keep",
        *,
        config: dict[str, Any] | None = None,
        adapter_config: dict[str, Any] | None = None,
        **options: Any,
    ) -> FusePlan:
        files = {str(path.relative_to(base)): path for path in base.rglob("*") if path.is_file()}
        base_config = json.loads((base / "config.json").read_text()) | (config or {})
        settings = json.loads((adapter / "adapter_config.json").read_text()) | (adapter_config or {})
        weights = adapter / "adapters.safetensors"
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        options = {"scratch": scratch} | options
        return make_plan(files, base_config, weights, settings, precision, **options)

    return plan


@pytest.fixture
def our_fuse(tmp_path: Path, planned: Planner) -> OurFuse:
    def run(
        base: Path,
        adapter: Path,
        precision: str = "keep",
        *,
        name: str = "ours",
        threads: int = 2,
        **options: Any,
    ) -> tuple[Path, FuseResult]:
        folder = tmp_path / name
        folder.mkdir()
        return folder, fuse(planned(base, adapter, precision, **options), folder, threads=threads)

    return run


@pytest.fixture
def calibrated(tmp_path: Path) -> tuple[Path, Path, CalibrationFile]:
    base = tiny_models.make_base(tmp_path / "base", bits=4, group_size=32)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.02)
    paths = tiny_models.adapted_modules(json.loads((base / "config.json").read_text()), 4)
    modules = {path: 256 if path.endswith("down_proj") else 128 for path in paths}
    return base, adapter, known(tmp_path / "calibration.safetensors", modules)


def known(path: Path, modules: dict[str, int], *, size: float = 1.0, rest: float = 1.0) -> CalibrationFile:
    random = np.random.default_rng(2)
    inputs = {
        f"of-{width}": Directions(
            (size * random.standard_normal((8, width)).clip(-1, 1)).astype(np.float32),
            np.full(width, rest, np.float32),
            9.0 * rest,
        )
        for width in sorted(set(modules.values()))
    }
    names = {module: f"of-{width}" for module, width in modules.items()}
    write_calibration(path, inputs, names, base=Digest("a" * 64), tokens=1, prompts=Digest("b" * 64))
    return read_calibration(path)
