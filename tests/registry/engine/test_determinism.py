"""One fuse, one digest: whatever the threads, the Python, the NumPy, the processor, and with or without mlx."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import golden_digests
import pytest
from golden_digests import GOLDEN, Golden

import fusery.registry.engine

pytestmark = pytest.mark.timing
ROOT = Path(__file__).parents[3]
DIGESTS = {case.name: case.digest for case in GOLDEN}
assert len(DIGESTS) == len(GOLDEN)
SOME = ("bf16-lora-keep", "bf16-dora-keep", "f32-lora-keep", "4bit-lora-dither", "mxfp4-lora-keep")
X86 = sys.platform == "linux" and platform.machine() == "x86_64"


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mlx", "mlx_lm", "transformers", "torch"){more}:
            raise ModuleNotFoundError(f"{{name}} is not to be used")

sys.meta_path.insert(0, Absent())
"""
NO_MLX, NO_MLX_AND_KERNEL = ABSENT.format(more=""), ABSENT.format(more=' or name.endswith("._kernel")')

NO_BLAS = """
import numpy as np

def refused(*arguments, **options):
    raise AssertionError("a BLAS or LAPACK routine is not to be used")

NAMES = "matmul dot einsum einsum_path inner tensordot vdot outer kron convolve correlate vecdot matvec vecmat".split()
for name in NAMES:
    if hasattr(np, name):
        setattr(np, name, refused)
for name in np.linalg.__all__:
    if name != "LinAlgError":
        setattr(np.linalg, name, refused)
"""


def digests(
    *names: str,
    python: str = sys.executable,
    code: str = "",
    threads: int = 2,
    environment: Mapping[str, str] | None = None,
) -> dict[str, list[Any]]:
    script = f"{code}import golden_digests; golden_digests.main()"
    found = run(python, "-c", script, "--threads", str(threads), *names, environment=environment)
    return dict(json.loads(found))


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support" / "models")))
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def here(name: str) -> list[Any]:
    case = next(case for case in GOLDEN if case.name == name)
    with tempfile.TemporaryDirectory() as folder:
        return list(golden_digests.run(case, Path(folder)))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.name)
def test_golden(case: Golden) -> None:
    """If this fails and the new bits are right, the engine's version goes up and the digest here changes."""
    assert here(case.name)[0] == case.digest


def test_without_mlx_blas_and_the_compiled_arithmetic() -> None:
    """Fuse as an installation without a compiler does; products of matrices raise, so no BLAS can have computed one."""
    found = digests(*SOME, code=NO_MLX_AND_KERNEL + NO_BLAS, threads=3)
    assert found == {name: here(name) for name in SOME}


def test_without_mlx_and_with_other_kernels_of_the_blas() -> None:
    environment = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"} if X86 else {}
    found = digests(*SOME, code=NO_MLX, threads=1, environment=environment)
    assert found == {name: here(name) for name in SOME}


# Calls that NumPy may pass to a BLAS.
PRODUCTS = re.compile(
    r"\bnp\.(matmul|v?dot|inner|einsum|tensordot|vecdot|matvec|vecmat|linalg|convolve|correlate|cov|corrcoef|polyfit)\b"
    r"|\.dot\(|from numpy(\.linalg)? import|import (numpy\.|scipy)"
)


def multiplies(source: str) -> bool:
    operators = any(isinstance(node, ast.MatMult) for node in ast.walk(ast.parse(source)))
    return operators or PRODUCTS.search(source) is not None


def test_no_products_of_matrices_in_the_source() -> None:
    for use in (
        "x = a @ b",
        "a @= b",
        "np.dot(a, b)",
        "a.dot(b)",
        "np.linalg.norm(a)",
        "from numpy import dot",
    ):
        assert multiplies(use)
    folder = Path(fusery.registry.engine.__file__).parent
    assert [path.name for path in folder.glob("*.py") if multiplies(path.read_text())] == []


@pytest.mark.slow
def test_all_without_mlx_blas_the_compiled_arithmetic_and_vectors_of_the_processor() -> None:
    """NumPy has loops for each generation of processors; here it falls back to the oldest, and computes everything."""
    ask = (
        "from numpy._core._multiarray_umath import __cpu_dispatch__ as names, __cpu_features__ as have\n"
        "print(' '.join(name for name in names if have.get(name)))"
    )
    features = run(sys.executable, "-c", ask).split()
    environment = {"NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    assert run(sys.executable, "-c", ask, environment=environment).split() == []
    found = digests(code=NO_MLX_AND_KERNEL + NO_BLAS, threads=3, environment=environment)
    assert found == {name: here(name) for name in DIGESTS}
