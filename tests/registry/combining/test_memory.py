"""Peak memory of `combine` and `shrink` on adapters of rank 64 for a 7B model: one module at a time, however many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from combine import FUSERY
from weights_diff import KINDS, MAKE, RANK

pytestmark = pytest.mark.slow

LAYERS = 11
"""Of the 32; each of the files is larger than the limit, without Python."""

LIMIT = 200_000_000
"""300 MB are promised; less than that is what holds one module at a time."""


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    _run(MAKE, repr((str(folder), "F32", KINDS, LAYERS, RANK, 0.3)))
    return [folder / "a.safetensors", folder / "b.safetensors"]


def _run(code: str, *words: object) -> str:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as the command line sets it
    command = [sys.executable, "-P", "-c", code, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


@pytest.mark.parametrize("method", ["shrink", "svd", "cat", "linear", "ties", "dare"])
def test_it_has_one_module_in_memory(method: str, adapters: list[Path], tmp_path: Path) -> None:
    assert min(path.stat().st_size for path in adapters) > LIMIT
    found = json.loads(_run(FUSERY, method, tmp_path / "new", *adapters))
    assert found["bytes"] < LIMIT
