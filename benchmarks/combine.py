"""Time and memory of `combine` and `shrink` on two adapters for a 7B model, beside PEFT's own functions.

    python benchmarks/combine.py
    python benchmarks/combine.py --peft-python .venv-peft/bin/python --out benchmarks/results/combine.json

The adapters have the shape that `weights_diff.py` has: 224 modules of rank 64, float32, 640 MB each.  `fusery` is a process of
its own for each method: it opens both files, makes all modules and writes the new file; `shrink` halves the rank of one.
What the command line adds is the registry: the digests of both files, verified once a day, and the registration, which reads
the new file once more for its digest and once for admission.  The bytes that two runs write are compared.

`peft` runs `linear`, `ties` and `dare_linear` of `peft/utils/merge_utils.py` on the same factors, module by module, without a
model around them and without writing anything.  `svd` multiplies whole matrices out and decomposes them there, which takes
hours: it is done for one module cut to 1024 x 1024, and the time taken times the cube of the ratio, an extrapolation.

Memory is ru_maxrss, each process's own peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from weights_diff import KINDS, LAYERS, MAKE, RANK, _run

FUSERY = """
import hashlib, json, resource, sys, time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
started = time.perf_counter() - time.process_time()  # what starting Python took
from fusery.registry.comparison.methods import CombinedUpdate
from fusery.registry.comparison.plan import CombineOptions, plan, write
from fusery.registry.comparison.modules import open_adapter
method, out, *files = sys.argv[1:]
how = {
    "shrink": CombineOptions("shrink", (1.0,), rank=32),
    "ties": CombineOptions("ties", (0.5, 0.5), density=0.2),
    "dare": CombineOptions("dare", (0.5, 0.5), density=0.2, seed=0),
}.get(method, CombineOptions(method, (0.5, 0.5)))
with ExitStack() as stack:
    sources = [
        replace(stack.enter_context(open_adapter(Path(path), 2.0, name=path)), digest=str(number) * 64)
        for number, path in enumerate(files[: len(how.weights)])
    ]
    figures = write(sources, plan(sources, how), Path(out))
seconds = time.perf_counter() - started
peak, processor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time()
with open(out, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
Path(out).unlink()
whole = CombinedUpdate.joined(list(figures.values()))
print(json.dumps({"seconds": seconds, "processor": processor, "bytes": peak, "digest": digest, "retained": whole.retained}))
"""

PEFT = """
import json, resource, sys, time
import torch
from peft.utils import merge_utils
from safetensors import safe_open
method, *files = sys.argv[1:]
weights = torch.tensor([1.0, 1.0])
started = time.perf_counter()
held = [safe_open(path, "pt") for path in files]
seconds = None
for name in held[0].keys():
    tensors = [file.get_tensor(name) for file in held]
    if method == "linear":
        merge_utils.task_arithmetic(tensors, weights)
    elif method == "ties":
        merge_utils.ties(tensors, weights, 0.2)
    elif method == "dare":
        merge_utils.dare_linear(tensors, weights, 0.2)
    else:
        matrix = torch.randn(1024, 1024)
        started = time.perf_counter()
        torch.linalg.svd(matrix, full_matrices=True)
        shapes = eval(method)
        seconds = sum((time.perf_counter() - started) * min(shape) ** 2 * max(shape) / 1024**3 for shape in shapes)
        break
if seconds is None:
    seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""
METHODS = ("shrink", "svd", "cat", "linear", "ties", "dare")


def main() -> None:
    """Make the adapters, measure in turn, print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="combine-", dir=options.folder) as folder:
        _run(MAKE, repr((folder, "F32", KINDS, LAYERS, RANK, 0.3)))
        files = [str(Path(folder, name)) for name in ("a.safetensors", "b.safetensors")]
        report = {method: _measured(method, folder, files, options) for method in options.methods}
    for method, found in report.items():
        print(_line(method, found))
    if options.out:
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
        text = json.dumps({"methods": report, "machine": machine}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")


def _measured(method: str, folder: str, files: list[str], options: argparse.Namespace) -> dict[str, Any]:
    ours, theirs = [], []
    for _ in range(options.runs):
        # As the command line sets it.
        ours.append(_run(FUSERY, method, str(Path(folder, "new")), *files, OPENBLAS_NUM_THREADS="1"))
        if options.peft_python and method not in ("cat", "shrink"):
            theirs.append(_peft(options.peft_python, method, files))
    if len({run["digest"] for run in ours}) > 1:
        raise SystemExit(f"{method} wrote other bytes the second time")
    return {
        "seconds": statistics.median(run["seconds"] for run in ours),
        "fastest": min(run["seconds"] for run in ours),
        "processor": statistics.median(run["processor"] for run in ours),
        "max_bytes": max(run["bytes"] for run in ours),
        "retained": ours[0]["retained"],
        "peft_seconds": statistics.median(run["seconds"] for run in theirs) if theirs else None,
        "peft_max_bytes": max(run["bytes"] for run in theirs) if theirs else None,
    }


def _peft(python: Path, method: str, files: list[str]) -> dict[str, Any]:
    import subprocess

    asked = repr([shape for shape in KINDS.values() for _ in range(LAYERS)]) if method == "svd" else method
    done = subprocess.run(
        [python, "-c", PEFT, asked, *files], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _line(method: str, found: dict[str, Any]) -> str:
    line = (
        f"{method:>6}: {found['seconds']:.2f} s (fastest {found['fastest']:.2f}, processor {found['processor']:.2f}), "
        f"{found['max_bytes'] / 1e6:.0f} MB, {100 * found['retained']:.1f} % kept"
    )
    if found["peft_seconds"] is None:
        return line
    ratio = found["peft_seconds"] / found["seconds"]
    extrapolated = " (extrapolated)" if method == "svd" else ""
    return f"{line}; PEFT {found['peft_seconds']:.1f} s{extrapolated}, {found['peft_max_bytes'] / 1e6:.0f} MB: {ratio:.2f} x"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--peft-python", type=Path, help="an interpreter with torch and peft")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put the adapters, 2 GB")
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
