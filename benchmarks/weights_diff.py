"""Time and memory of comparing the weights of two adapters, in pairs with the dense way.

    python benchmarks/weights_diff.py
    python benchmarks/weights_diff.py --case nearly-equal --dtype F32 --runs 3 --out benchmarks/results/weights_diff.json

The adapters have the shape of one for a 7B model: 32 layers, in each q, k, v, o (4096 x 4096), gate, up (4096 x 11008)
and down (11008 x 4096), rank 64.  `fusery` is a process of its own that opens both files and compares all 224
modules: norms, cosines, relative changes, spectra, effective ranks and principal angles.  Starting Python and printing
the JSON are in it; what the command line adds is the registry, and once a day reading both files through to verify
their digests, which is timed apart ("verify").

`dense` multiplies the two updates out in float64 and takes norms, cosine and relative change from whole matrices, and
for `dense with spectra` singular values too.  That takes minutes, so it runs on one module of each kind, and
what all 224 would take is that time multiplied, plainly: an extrapolation.  The singular values are those of one
matrix cut to 1024 x 1024, times the cube of the ratio, as their cost grows.  Both ways run in turn.

Memory is ru_maxrss, each process's own peak, the files' pages that are mapped included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LAYERS, RANK = 32, 64
_SQUARE, _WIDE, _HIGH = (4096, 4096), (4096, 11008), (11008, 4096)
KINDS = {
    "self_attn.q_proj": _SQUARE,
    "self_attn.k_proj": _SQUARE,
    "self_attn.v_proj": _SQUARE,
    "self_attn.o_proj": _SQUARE,
    "mlp.gate_proj": _WIDE,
    "mlp.up_proj": _WIDE,
    "mlp.down_proj": _HIGH,
}
CASES = {"related": 0.3, "strangers": None, "nearly-equal": 1e-5}
"""How far the second adapter's numbers are from the first's, relatively; None for numbers of its own."""

MAKE = """
import sys
from pathlib import Path
import numpy as np
from fusery.registry.engine.arithmetic import FORMATS, encode
from fusery.storage.safetensors import build_header, tensor_bytes
folder, dtype, kinds, layers, rank, distance = eval(sys.argv[1])
form = FORMATS[dtype]
entries = []
for layer in range(layers):
    for kind, (rows, columns) in kinds.items():
        path = f"model.layers.{layer}.{kind}"
        entries += [(f"{path}.lora_a", dtype, (rows, rank)), (f"{path}.lora_b", dtype, (rank, columns))]
first, second = (Path(folder, name).open("wb") for name in ("a.safetensors", "b.safetensors"))
mine = np.random.default_rng(1)
for file in (first, second):
    file.write(build_header(entries, {"format": "mlx"}))
for name, _, shape in entries:
    numbers = mine.standard_normal(shape, np.float32)
    other = mine.standard_normal(shape, np.float32)
    other = other if distance is None else numbers + np.float32(distance) * other
    first.write(encode(numbers, form).tobytes())
    second.write(encode(other, form).tobytes())
"""

FUSERY = """
import json, resource, sys, time
from contextlib import ExitStack
from pathlib import Path
started = time.perf_counter() - time.process_time()  # what starting Python took
from fusery.registry.comparison.modules import compare_adapters, open_adapter, overall
with ExitStack() as stack:
    ours, theirs = (stack.enter_context(open_adapter(Path(path), 2.0)) for path in sys.argv[1:3])
    changes = compare_adapters(ours, theirs)
text = json.dumps({"overall": overall(changes).to_dict(), "modules": [change.record().to_dict() for change in changes]}, indent=2)
print(json.dumps({
    "overall": overall(changes).to_dict(),
    "modules": {change.module: [change.updates.norm_a, change.updates.cosine, change.updates.relative_change] for change in changes},
    "seconds": time.perf_counter() - started,
    "processor": time.process_time(),
    "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""

DENSE = """
import json, resource, sys, time
from contextlib import ExitStack
from pathlib import Path
import numpy as np
from fusery.registry.comparison.modules import open_adapter
kinds, layers = eval(sys.argv[3])
seconds, found = {}, {}
with ExitStack() as stack:
    ours, theirs = (stack.enter_context(open_adapter(Path(path), 2.0)) for path in sys.argv[1:3])
    for kind in ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"):
        module = f"model.layers.0.{kind}"
        started = time.perf_counter()
        first, second = (
            update.scale * (update.a.astype(np.float64) @ update.b.astype(np.float64))
            for update in (adapter.read(module) for adapter in (ours, theirs))
        )
        norms = [float(np.linalg.norm(update)) for update in (first, second)]
        product = float(np.vdot(first, second))
        change = float(np.linalg.norm(first - second))
        seconds[kinds[kind]] = time.perf_counter() - started
        found[module] = [norms[0], product / norms[0] / norms[1], change / norms[0]]
    cut = np.ascontiguousarray(first[:1024, :1024])
    started = time.perf_counter()
    np.linalg.svd(cut, compute_uv=False)
    cube = (time.perf_counter() - started) / 1024**3
total = sum(layers * seconds[shape] for shape in kinds.values())
spectra = sum(2 * layers * cube * min(shape) ** 2 * max(shape) for shape in kinds.values())
print(json.dumps({
    "modules": found,
    "measured": sum(seconds.values()),
    "seconds": total,
    "with_spectra": total + spectra,
    "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""

VERIFY = """
import hashlib, json, sys, time
from concurrent.futures import ThreadPoolExecutor
def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
started = time.perf_counter()
with ThreadPoolExecutor(2) as pool:
    list(pool.map(digest, sys.argv[1:3]))
print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def main() -> None:
    """Make the adapters, measure in pairs, print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="weights-diff-", dir=options.folder) as folder:
        _run(MAKE, repr((folder, options.dtype, KINDS, LAYERS, RANK, CASES[options.case])))
        files = [str(Path(folder, name)) for name in ("a.safetensors", "b.safetensors")]
        runs = []
        for _ in range(options.runs):
            ours = _run(FUSERY, *files, OPENBLAS_NUM_THREADS="1")  # as the command line sets it
            theirs = _run(DENSE, *files, repr((KINDS, LAYERS)))
            runs.append({"fusery": ours, "dense": theirs, "verify": _run(VERIFY, *files)})
        size = Path(files[0]).stat().st_size
    report = _report(options, size, runs)
    for line in _lines(report):
        print(line)
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _run(program: str, *arguments: str, **environment: str) -> dict[str, Any]:
    # This process stays small: what a child's ru_maxrss begins with is the size of the one it was forked from.
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
    return found


def _report(options: argparse.Namespace, size: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(key: str, figure: str) -> float:
        return statistics.median(run[key][figure] for run in runs)

    compared = [
        (run["fusery"]["modules"][module], figures)
        for run in runs
        for module, figures in run["dense"]["modules"].items()
    ]
    apart = [
        abs(ours - theirs) / (abs(theirs) if place != 1 else 1.0)
        for mine, others in compared
        for place, (ours, theirs) in enumerate(zip(mine, others, strict=True))
    ]
    return {
        "case": options.case,
        "dtype": options.dtype,
        "bytes_each": size,
        "runs": options.runs,
        "seconds": {
            "fusery": [run["fusery"]["seconds"] for run in runs],
            "fusery_median": middle("fusery", "seconds"),
            "fusery_processor_median": middle("fusery", "processor"),
            "verify_median": middle("verify", "seconds"),
            "dense_measured_median": middle("dense", "measured"),
            "dense_extrapolated_median": middle("dense", "seconds"),
            "dense_with_spectra_extrapolated_median": middle("dense", "with_spectra"),
        },
        "max_bytes": {key: max(run[key]["bytes"] for run in runs) for key in ("fusery", "dense")},
        "largest_relative_difference": max(apart),
        "overall": runs[0]["fusery"]["overall"],
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "processor": platform.machine()},
    }


def _lines(report: dict[str, Any]) -> list[str]:
    seconds, memory, machine = report["seconds"], report["max_bytes"], report["machine"]
    fastest = min(seconds["fusery"])
    spectra = seconds["dense_with_spectra_extrapolated_median"] / 60
    lines = f"""
{report["case"]}, {report["dtype"]}, {report["bytes_each"] / 1e6:.0f} MB each; load {machine["load"]:.1f} on {machine["cores"]} cores
fusery: {seconds["fusery_median"]:.2f} s (fastest {fastest:.2f}, processor {seconds["fusery_processor_median"]:.2f}), {memory["fusery"] / 1e6:.0f} MB
verifying the digests of both files, once a day: {seconds["verify_median"]:.2f} s
dense: {seconds["dense_measured_median"]:.1f} s for 3 of 224 modules, {memory["dense"] / 1e6:.0f} MB
dense, extrapolated to all: {seconds["dense_extrapolated_median"]:.0f} s, with singular values {spectra:.0f} min
largest relative difference between the two (of the cosine: absolute): {report["largest_relative_difference"]:.1e}
"""
    return lines.strip().splitlines()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="related", help="how alike the two are")
    parser.add_argument("--dtype", choices=("BF16", "F16", "F32"), default="BF16", help="of the adapters")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put the adapters, 0.6 to 1.3 GB")
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
