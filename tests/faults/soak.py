"""The long sweep: `python -m faults.soak`.

Each system call that strace can fail is one point for each fault; `--points 0` takes all of them, which is hours.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from faults.commands import ACTS, SITE_ACTS
from faults.points import CLIENT, FAULTS, SERVER, Point, Tally
from faults.sites import DISK, SERVERS, stack_of
from faults.sweep import Sweep, sweeping, try_all
from faults.tracing import find_strace

MAIN = ("register", "fuse", "materialize")
"""Commands that get all of `--points`; the others get a third."""


def points_of(sweep: Sweep, options: argparse.Namespace, random: Random) -> list[Point]:
    chosen: list[Point] = []
    for command in options.command or (*ACTS, *SITE_ACTS):
        if command in SITE_ACTS and sweep.stack.name != DISK:
            continue
        calls = options.points if command in MAIN else -(-options.points // 3)
        calls = calls if find_strace() is not None and options.points >= 0 else -1
        serves = command in SITE_ACTS and SITE_ACTS[command].serves
        for victim in (CLIENT, SERVER) if serves else (CLIENT,):
            interrupts = 0 if command in SITE_ACTS else options.interrupts
            chosen += sweep.points(
                command, random, victim=victim, calls=calls, kills=options.kills, interrupts=interrupts
            )
    chosen = [point for point in chosen if not point.call or point.fault in (options.fault or FAULTS)]
    random.shuffle(chosen)
    return chosen


def sweep_stack(name: str, options: argparse.Namespace, seed: int, folder: Path, tally: Tally) -> None:
    with stack_of(name, folder) as stack, sweeping(stack, folder, options.workers) as sweeps:
        points = points_of(sweeps[0], options, Random(f"{seed} {name}"))
        print(f"{name}: {len(points)} points", flush=True)
        started = time.monotonic()
        for number, result in enumerate(try_all(sweeps, points), 1):
            tally.add(name, result)
            for complaint in result.complaints:
                print(
                    f"{name}: {result.point}, ended with {result.code}: {complaint} [{result.place}]",
                    flush=True,
                )
            if number % 50 == 0:
                print(f"{name}: {number} points, {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fail commands at system calls and at instants.")
    parser.add_argument("--stack", choices=["disk", "servers"], action="append", help="default: both")
    parser.add_argument("--command", choices=[*ACTS, *SITE_ACTS], action="append", help="default: all")
    parser.add_argument(
        "--points", type=int, default=90, help="at system calls, a command and stack; 0: all, -1: none"
    )
    parser.add_argument("--fault", choices=FAULTS, action="append", help="at system calls; default: all")
    parser.add_argument("--kills", type=int, default=50, help="kill -9 at instants, a command and stack")
    parser.add_argument("--interrupts", type=int, default=5, help="Ctrl-C at instants, a command and stack")
    parser.add_argument("--seed", type=int, default=None, help="of the choice; default: any")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--folder", type=Path, default=None, help="to work in; sites with violations stay there"
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "big")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fusery-faults-"))
    print(f"seed {seed}, in {folder}", flush=True)
    # What is started in the background ignores SIGINT, and so would all that it starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    tally, whole = Tally(), False
    try:
        for name in options.stack or ("disk", "servers"):
            (folder / name).mkdir(parents=True)
            sweep_stack({"disk": DISK, "servers": SERVERS}[name], options, seed, folder / name, tally)
        whole = True
    except KeyboardInterrupt:
        return 130
    finally:
        # Also when it is ended early: the points come in any order, and those that were made count.
        print(f"\n{tally.table()}", flush=True)
        if not whole:
            print("Ended early.", flush=True)
    return 1 if tally.of("violations") else 0


if __name__ == "__main__":
    sys.exit(main())
