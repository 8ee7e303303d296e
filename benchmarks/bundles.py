"""RunningJob bundles against what the system does with the same bytes: `cp`, and the compressor by itself.

A fused model of a gigabyte is written to a place of its own, in turn with its peer and each first every other time: as `model`
against `cp -r` and `sha256sum` of the copy, with `-o link=yes` against `sha256sum`, and as `archive` against zstandard alone on the
weights.  What is ours checks every digest; where `synced` is said, both bring everything to the disk.  Run it with `python benchmarks/bundles.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT / "tests" / "support").iterdir())

COPY, ARCHIVE, LINK = 1.15, 0.9, 1.15
"""Wanted: at most so many times cp and sha256sum; at least so much of the compressor's speed; at most so many times sha256sum."""


def seconds(do: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def make_model(folder: Path, megabytes: int) -> None:
    """Write a model whose weights are bfloat16 numbers as training leaves them, about normal, so that they compress alike."""
    import numpy as np
    import tiny_models

    tiny_models.make_base(folder, layers=2)
    rng = np.random.default_rng(0)
    header, data, offset = {}, [], 0
    for number in range(max(1, megabytes // 32)):
        values = rng.standard_normal(16 << 20, dtype=np.float32) * 0.02
        block = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[f"model.layers.{number}.w"] = {
            "dtype": "BF16",
            "shape": [4096, 4096],
            "data_offsets": [offset, offset + len(block)],
        }
        data.append(block)
        offset += len(block)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data)


def main() -> int:
    """Measure, print medians and the median of the ratios; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fusery-bundles-") as name:
        root = Path(name)
        make_model(root / "source", options.megabytes)
        return report(measure(root, options.runs))


def measure(root: Path, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of seconds, ours and the peer's, for each thing that is measured."""
    found: dict[str, list[tuple[float, float]]] = {"copy": [], "copy, synced": [], "link": [], "archive": []}
    target = root / "out"
    for turn in range(runs):
        for what, pair in pairs(root / "source", target).items():
            both = list(enumerate(pair))
            times = [0.0, 0.0]
            for place, do in both if turn % 2 else reversed(both):
                shutil.rmtree(target, ignore_errors=True)
                os.sync()
                times[place] = seconds(do)
            found[what].append((times[0], times[1]))
    return found


def pairs(source: Path, target: Path) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return what is compared: ours, and its peer."""
    weights = source / "model.safetensors"

    def hash_it(folder: Path) -> None:
        subprocess.run(["sha256sum", folder / "model.safetensors"], check=True, stdout=subprocess.DEVNULL)

    def copy() -> None:
        subprocess.run(["cp", "-r", source, target], check=True)
        hash_it(target)

    def copy_synced() -> None:
        copy()
        subprocess.run(["sync", target / "model.safetensors"], check=True)

    def compress() -> None:
        import zstandard

        target.mkdir()
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, threads=2)
        with weights.open("rb") as file, (target / "z").open("wb") as out:
            compressor.copy_stream(file, out, read_size=1 << 20, write_size=1 << 20)

    return {
        "copy": (lambda: write(source, target, "model"), copy),
        "copy, synced": (lambda: write(source, target, "model", synced=True), copy_synced),
        "link": (lambda: write(source, target, "model", link=True), lambda: hash_it(source)),
        "archive": (lambda: write(source, target, "archive"), compress),
    }


def write(source: Path, target: Path, name: str, *, link: bool = False, synced: bool = False) -> None:
    """Write a bundle as `materialize` does once the fused model is in the cache."""
    from fusery.registry.bundles import BundleSource, Choices
    from fusery.registry.bundles.delivery import sync_tree
    from fusery.registry.bundles.source import Files
    from fusery.registry.bundles.target import find_target, write_bundle

    target.mkdir()
    files = Files.within(source, manifest(source))
    write_bundle(BundleSource("measured", {}, files), find_target(name), target, Choices(link=link))
    if synced:
        sync_tree(target)


_MANIFESTS: dict[Path, object] = {}


def manifest(source: Path) -> object:
    """Return the manifest of the model, which is on record and not computed anew."""
    from fusery.storage.digest import digest_file
    from fusery.storage.manifest import FileEntry, Manifest

    if source not in _MANIFESTS:
        entries = (FileEntry(path.name, *reversed(digest_file(path))) for path in source.iterdir())
        _MANIFESTS[source] = Manifest.of(entries)
    return _MANIFESTS[source]


def report(found: dict[str, list[tuple[float, float]]]) -> int:
    """Print a table; return 1 if a bound is missed."""
    ratios = {
        what: statistics.median(ours / theirs for ours, theirs in times) for what, times in found.items()
    }
    print(f"{'what':14} {'ours':>8} {'peer':>8} {'ratio':>7}")
    for what, times in found.items():
        ours, theirs = (statistics.median(pair[place] for pair in times) for place in (0, 1))
        print(f"{what:14} {ours:7.2f}s {theirs:7.2f}s {ratios[what]:7.2f}")
    missed = [
        text
        for text, bad in (
            (f"model at most {COPY} of cp and sha256sum", ratios["copy"] > COPY),
            (f"link at most {LINK} of sha256sum", ratios["link"] > LINK),
            (f"archive at least {ARCHIVE} of the compressor", 1 / ratios["archive"] < ARCHIVE),
        )
        if bad
    ]
    print("missed: " + "; ".join(missed) if missed else "all bounds held")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
