"""Memory and time of a fuse over the size of the model, in pairs with `cp` and `sha256sum`.

    python benchmarks/memory.py --out benchmarks/results/size.json
    python benchmarks/memory.py --sizes 0.5,2 --runs 3
    python benchmarks/memory.py --draw benchmarks/results/size.json docs/pictures/fuse_time.png

The models have the blocks of Llama-2-7B, fewer of them below 14 GB and narrower ones below 3 GB, in bfloat16 and with
random weights; the adapter is of rank 8 on all seven linear layers of the last quarter of the blocks.  Each model is
made, fused, copied and hashed, and removed before the next.  `cp` and `sha256sum` are what somebody would run who
wants a copy and its digest: at the same time, both reading the model, or one after the other.  A fuse is the process of a user without the
registry: starting Python, reading, computing, writing, hashing and measuring the fidelity are in it.

The model reaches the disk before the first command; outputs are removed before most of them does.  The first round
only warms the page cache.  Drawing needs matplotlib, which is no requirement of this project, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import Usage, measure

if TYPE_CHECKING:
    from shapes import Shape

SIZES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 14.0)
RANK = 8
LABELS = {"fuse": "fuse", "together": "cp and sha256sum together", "after": "cp, then sha256sum"}
_GB = 1e9

DRIVE = """
import json, sys
from pathlib import Path
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
base, adapter, out = map(Path, sys.argv[1:4])
out.mkdir()
files = {path.name: path for path in base.iterdir()}
config, settings = (json.loads(path.read_text()) for path in (base / "config.json", adapter / "adapter_config.json"))
plan = make_plan(files, config, adapter / "adapters.safetensors", settings, "keep")
fuse(plan, out, threads=int(sys.argv[4]))
"""


@dataclass
class Point:
    """What was measured at one size.

    Attributes:
        label: the size that was asked for, in GB.
        bytes: of the weights.
        layers: blocks of the model.
        adapted: blocks that the adapter changes.
        fuse: one measurement a run.
        together: of `cp` and `sha256sum` at the same time, each right after that of the fuse.
        after: of `cp`, then `sha256sum`, likewise; none if it was not asked for.
    """

    label: float
    bytes: int
    layers: int
    adapted: int
    fuse: list[Usage] = field(default_factory=list)
    together: list[Usage] = field(default_factory=list)
    after: list[Usage] = field(default_factory=list)

    def ratio(self, other: list[Usage]) -> float:
        """Return the median over the pairs of the time of the fuse over that of the other."""
        return statistics.median(a.wall / b.wall for a, b in zip(self.fuse, other, strict=True))


def main() -> None:
    """Measure and print, or draw."""
    options = _options()
    if options.draw:
        draw(json.loads(options.draw[0].read_text()), options.draw[1])
        return
    scratch = Path(tempfile.mkdtemp(prefix="size-benchmark-", dir=options.folder))
    points = []
    print("wall seconds, median; ratios, median of the pairs; processor seconds; MiB of anonymous memory")
    print(
        f"{'GB':>6}{'fuse':>8}{'CPU':>8}{'MiB':>6}{'together':>10}{'CPU':>8}{'ratio':>7}{'after':>8}{'CPU':>8}{'ratio':>7}"
    )
    try:
        for size in map(float, options.sizes.split(",")):
            points.append(_measured(size, scratch, options))
            _print(points[-1])
    finally:
        shutil.rmtree(scratch)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(_report(points, options), indent=2) + "\n")


def draw(report: dict[str, Any], picture: Path) -> None:
    """Draw time over size, with the straight lines that fit best."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    sizes = np.array([point["bytes"] / _GB for point in report["points"]])
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for key, colour, mark in (
        ("fuse", "#1f5fa8", "o"),
        ("together", "#b5651d", "s"),
        ("after", "#6b8e23", "^"),
    ):
        times = [[usage["wall"] for usage in point[key]] for point in report["points"]]
        if not all(times):
            continue
        middle = np.array([statistics.median(runs) for runs in times])
        slope, start = fit(sizes, middle)
        below = middle - np.array([min(runs) for runs in times])
        text = f"{LABELS[key]}: {start:.2f} s + {slope:.2f} s per GB"
        axes.errorbar(sizes, middle, yerr=[below, 0 * below], fmt=mark, ms=5, color=colour, capsize=3, lw=1)
        axes.plot(sizes, start + slope * sizes, color=colour, lw=1.4, label=text)
    peak = max(usage["anonymous"] for point in report["points"] for usage in point["fuse"])
    axes.set_title(
        f"Fusing a bfloat16 model; at most {peak / 2**20:.0f} MiB of memory at any size", fontsize=10
    )
    axes.set_xlabel("size of the model (GB)")
    axes.set_ylabel("wall time (s), median down to the fastest run")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


def fit(sizes: Any, times: Any) -> tuple[float, float]:
    """Return slope and start of the straight line whose relative errors are smallest in the square."""
    import numpy as np

    weights = 1 / np.asarray(times)
    slope, start = np.polyfit(sizes, times, 1, w=weights)
    return float(slope), float(start)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="in GB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--after", action="store_true", help="also time cp with sha256sum after it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where models are made; twice the largest size is needed")
    parser.add_argument("--out", type=Path, help="where to write the measurements, as JSON")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("JSON", "PICTURE"), help="draw instead")
    return parser.parse_args()


def shape_of(size: float) -> Shape:
    """Return the shape of a model of about `size` GB."""
    from shapes import Shape

    vocab, tied = 32_000, size < 0.9
    if size < 0.3:
        width, middle, heads, vocab = 1024, 2752, 8, 8_000
    elif size < 3:
        width, middle, heads = 2048, 5504, 16
    else:
        width, middle, heads = 4096, 11008, 32
    outside = vocab * width * (1 if tied else 2)
    block = 4 * width * width + 3 * width * middle
    layers = max(1, round((size * _GB / 2 - outside) / block))
    return Shape(min(layers, 32), width, heads, heads, middle, vocab, tied)


def _measured(size: float, scratch: Path, options: argparse.Namespace) -> Point:
    from shapes import write_adapter, write_base

    shape = shape_of(size)
    base, adapter, out, copy = (scratch / name for name in ("base", "adapter", "out", "copy"))
    adapted = max(1, shape.layers // 4)
    write_base(base, shape, shard=1 << 40)
    write_adapter(adapter, shape, RANK, adapted)
    weights = base / "model.safetensors"
    os.sync()
    ours: list[str | Path] = [sys.executable, "-P", "-c", DRIVE, base, adapter, out, str(options.threads)]
    names = shlex.quote(str(weights)), shlex.quote(str(copy))
    shell: list[str | Path] = ["sh", "-c"]
    together = [*shell, f"cp {names[0]} {names[1]} & sha256sum {names[0]} & wait"]
    after = [*shell, f"cp {names[0]} {names[1]} && sha256sum {names[1]}"]
    point = Point(size, weights.stat().st_size, shape.layers, adapted)
    for run in range(options.runs + 1):
        contestants = [(ours, out, point.fuse), (together, copy, point.together)]
        contestants += [(after, copy, point.after)] if options.after else []
        for command, written, results in contestants:
            usage = measure(command)
            shutil.rmtree(written) if written.is_dir() else written.unlink()
            if run:
                results.append(usage)
    shutil.rmtree(base)
    shutil.rmtree(adapter)
    return point


def _print(point: Point) -> None:
    peak = max(usage.anonymous for usage in point.fuse) / 2**20
    line = f"{point.bytes / _GB:6.2f}{_median(point.fuse, 'wall'):8.2f}{_median(point.fuse, 'cpu'):8.2f}{peak:6.0f}"
    for usages, width in ((point.together, 10), (point.after, 8)):
        if usages:
            line += (
                f"{_median(usages, 'wall'):{width}.2f}{_median(usages, 'cpu'):8.2f}{point.ratio(usages):7.2f}"
            )
    print(line, flush=True)


def _median(usages: list[Usage], what: str) -> float:
    return statistics.median(getattr(usage, what) for usage in usages)


def _report(points: list[Point], options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    return {
        "what": "bfloat16 base, LoRA of rank 8 on the last quarter of the blocks, precision keep",
        "threads": options.threads,
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "points": [asdict(point) for point in points],
    }


if __name__ == "__main__":
    main()
