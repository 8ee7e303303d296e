"""One fuse, one digest: whatever the threads, the Python, the NumPy, the processor, and with or without mlx."""

from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fuse_cases
import golden_digests
import numpy as np
import pytest
from golden_digests import GOLDEN, Golden

import fusery.registry.engine

ROOT = Path(__file__).parents[3]
FUSION = Path(fusery.registry.engine.__file__).parent
DIGESTS = {case.name: case.digest for case in GOLDEN}
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
MAIN = "import golden_digests; golden_digests.main()"

FEATURES = """
from numpy._core._multiarray_umath import __cpu_dispatch__ as names, __cpu_features__ as have
print(" ".join(name for name in names if have.get(name)))
"""


def digests(
    *names: str,
    python: str = sys.executable,
    code: str = MAIN,
    threads: int = 2,
    environment: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, float]]:
    """Carry fuses out in a process of its own; return the digest and the share retained of each."""
    found = run(python, "-c", code, "--threads", str(threads), *names, environment=environment)
    return {name: (digest, retained) for name, (digest, retained) in json.loads(found).items()}


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


def only_digests(found: Mapping[str, tuple[str, float]]) -> dict[str, str]:
    return {name: digest for name, (digest, _) in found.items()}


@cache
def here(name: str) -> tuple[str, float]:
    """Carry a fuse out in this process, on two threads; return the digest and the share retained."""
    case = next(case for case in GOLDEN if case.name == name)
    with tempfile.TemporaryDirectory() as folder:
        return golden_digests.run(case, Path(folder))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.name)
def test_golden(case: Golden) -> None:
    """If this fails and the new bits are right, the engine's version goes up and the digest here changes."""
    assert here(case.name)[0] == case.digest


def test_without_mlx_blas_and_the_compiled_arithmetic() -> None:
    """What an installation without a compiler writes and measures; products of matrices raise, so no BLAS made them."""
    assert len(DIGESTS) == len(GOLDEN)
    assert digests(code=NO_MLX_AND_KERNEL + NO_BLAS + MAIN, threads=3) == {
        name: here(name) for name in DIGESTS
    }


def test_without_mlx_and_with_other_kernels_of_the_blas() -> None:
    """Without fused multiply-add, and with one thread of its own."""
    environment = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"} if X86 else {}
    found = digests(*SOME, code=NO_MLX + MAIN, threads=1, environment=environment)
    assert found == {name: here(name) for name in SOME}


def test_the_hooks_work() -> None:
    uses = [
        "np.linalg.norm(np.ones(3))",
        "np.dot(1, 2)",
        "import mlx.core",
        "import fusery.registry.engine._kernel",
    ]
    attempts = f"""
for use in {uses!r}:
    try:
        exec(use)
    except (AssertionError, ModuleNotFoundError) as error:
        print(error)
"""
    refusals = run(sys.executable, "-c", NO_MLX_AND_KERNEL + NO_BLAS + attempts).splitlines()
    assert len(refusals) == len(uses) and all("not to be used" in refusal for refusal in refusals)


BANNED = {
    *("matmul", "dot", "vdot", "inner", "einsum", "einsum_path", "tensordot", "vecdot", "matvec", "vecmat"),
    *("linalg", "convolve", "correlate", "cov", "corrcoef", "polyfit"),
}


def products_of_matrices(source: str) -> list[int]:
    """Return the lines of a module in which something that may end in a BLAS is used."""
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.expr | ast.stmt) and _multiplies(node)
    )


def _multiplies(node: ast.expr | ast.stmt) -> bool:
    match node:
        case ast.BinOp(op=ast.MatMult()) | ast.AugAssign(op=ast.MatMult()):
            return True
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=name):
            return name in BANNED
        case ast.Attribute(attr="dot"):  # of an array
            return True
        case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] == "numpy":
            return "linalg" in module or any(alias.name in BANNED for alias in names)
        case ast.Import(names=names):
            return any(alias.name.startswith(("numpy.", "scipy")) for alias in names)
    return False


def test_no_products_of_matrices_in_the_source() -> None:
    found = {path.name: products_of_matrices(path.read_text()) for path in FUSION.glob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_products_of_matrices_are_found() -> None:
    uses = ["a @ b", "a @= b", "np.matmul(a, b)", "a.dot(b)", "np.linalg.norm(a)", "from numpy import dot"]
    uses += [
        "from numpy import linalg",
        "from numpy.linalg import norm",
        "import numpy.linalg",
        "import scipy.x",
    ]
    assert products_of_matrices("\n".join(uses)) == list(range(1, len(uses) + 1))


@pytest.mark.slow
def test_whatever_the_vectors_of_the_processor() -> None:
    """NumPy has loops for each generation of processors; here it falls back to the oldest."""
    features = run(sys.executable, "-c", FEATURES).split()
    if not features:
        pytest.skip("NumPy has no loops to choose from on this processor")
    environment = {"NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    assert run(sys.executable, "-c", FEATURES, environment=environment).split() == []
    assert only_digests(digests(environment=environment)) == DIGESTS


def interpreters() -> list[str]:
    """Return other Pythons of this machine: one for each version, this one's excluded."""
    found = []
    ask = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
    places = os.pathsep.join(["/usr/bin", os.environ.get("PATH", "")])
    for minor in {11, 12, 13, 14} - {sys.version_info.minor}:
        if path := shutil.which(f"python3.{minor}", path=places):
            done = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.split() == [f"3.{minor}", "cpython"]:
                found.append(path)
    return found


def environment_with(python: str, numpy: str, folder: Path) -> str:
    """Make an environment with one NumPy and nothing else; return its interpreter."""
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if uv is None:
        pytest.skip("uv is not installed, which makes environments")
    run(uv, "venv", "--quiet", "--no-project", "--python", python, str(folder))
    inside = str(folder / "bin" / "python")
    run(uv, "pip", "install", "--quiet", "--no-deps", "--python", inside, "--only-binary", ":all:", numpy)
    return inside


@pytest.mark.slow
def test_under_another_python(tmp_path: Path) -> None:
    others = interpreters()
    if not others:
        pytest.skip("there is no other Python than this one (looked for python3.11 to python3.14)")
    inside = environment_with(others[-1], "numpy", tmp_path / "environment")
    assert run(inside, "-c", "import sys; print(sys.version_info.minor)") != f"{sys.version_info.minor}\n"
    assert only_digests(digests(python=inside)) == DIGESTS


@pytest.mark.slow
def test_under_another_numpy(tmp_path: Path) -> None:
    oldest = "2.0.2" if sys.version_info < (3, 13) else "2.1.0"
    inside = environment_with(sys.executable, f"numpy=={oldest}", tmp_path / "environment")
    other = run(inside, "-c", "import numpy; print(numpy.__version__)").strip()
    assert other == oldest != version("numpy")
    assert only_digests(digests(python=inside)) == DIGESTS


@pytest.mark.parametrize(
    "case",
    [
        fuse_cases.Case("mixtral", "bf16", "lora", layout="hf"),
        fuse_cases.Case("gpt_oss", "bf16", "experts", layout="hf"),
        fuse_cases.Case("deepseek_v3", "f16", "lora", layout="hf"),
    ],
    ids=str,
)
def test_by_the_class_of_the_model(
    case: fuse_cases.Case, tmp_path: Path, our_fuse: Callable[..., Any]
) -> None:
    """Where mlx computes tensors of the base, the digest holds for one mlx on one machine."""
    pytest.importorskip("mlx_lm")
    base = fuse_cases.make_base(tmp_path / "base", case)
    adapter = fuse_cases.make_adapter(tmp_path / "adapter", base, case)
    results = set()
    for threads in (1, 3):
        scratch = tmp_path / f"scratch-{threads}"
        scratch.mkdir()
        _, fused = our_fuse(base, adapter, name=str(threads), threads=threads, scratch=scratch)
        results.add(fused.files)
    assert len(results) == 1


def test_the_numbers_do_not_come_from_a_library() -> None:
    """The inputs of the golden fuses are fixed themselves."""
    values = golden_digests._numbers("fixed", (4,), 3)
    assert values.dtype == np.float32
    assert (values * 2**18).tolist() == [19788, -20390, 20908, -21444]
