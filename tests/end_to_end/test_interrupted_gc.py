"""Whatever moment a collection is killed at: nothing live is lost, and the next one leaves exactly the live bytes."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from collecting import Shelf, open_workspace, tear
from installation import Installation

MOMENTS = 10
LITTER = 12
"""Blobs that nothing refers to, before each collection."""


def litter(installation: Installation, moment: int) -> None:
    """Leave what commands leave that were refused, or killed in a write."""
    workspace = open_workspace(installation.folder / "home")
    shelf = Shelf(workspace)
    for number in range(LITTER):
        shelf.give_up(f"{moment} {number}".encode() * 100)
    tear(shelf, b"half of something")
    workspace.close()


def stored(installation: Installation) -> tuple[int, int]:
    """Return number and bytes of the files in the store, but for the one that describes it."""
    files = [path for path in (installation.folder / "home" / "store").rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files if path.name != "format.json"]
    return len(sizes), sum(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_collection_that_is_killed_at_any_moment(how: signal.Signals, installation: Installation) -> None:
    installation.run("register", "first", "--base", "tiny", "--task", "course_rec")
    installation.run("fuse", "course_rec@1", "--precision", "keep", "--accept-loss")
    live = stored(installation)
    words = ("gc", "-y", "--grace", "0")
    litter(installation, -1)
    started = time.monotonic()
    installation.run(*words)
    whole = time.monotonic() - started
    jitter = random.Random(str(how))
    ended = 0
    for moment in range(MOMENTS):
        litter(installation, moment)
        process = installation.start(*words)
        # Most of the time is start-up; the second half is where the work is.
        time.sleep(whole * (0.4 + 0.7 * (moment + jitter.random()) / MOMENTS))
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 130, -how) or err.rstrip().endswith("KeyboardInterrupt"), err
        ended += process.returncode != 0
        assert installation.json("audit")["ok"]
        if moment % 2:
            document = installation.json(*words)
            assert (document["live"], document["live_bytes"]) == live
            assert stored(installation) == live
    assert ended, "no run was hit: the moments were too late"
    installation.run(*words)
    assert stored(installation) == live
    assert installation.json("fuse", "course_rec@1", "--precision", "keep", "--accept-loss")["cached"]


FAULTS = "unlink,unlinkat,fdatasync,fsync,pwrite64,write,ftruncate,openat"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO", "error=ENOSPC"])
def test_every_system_call_of_a_collection_failed_in_turn(fault: str, installation: Installation) -> None:
    """strace fails the Nth call that writes, syncs or deletes; N spread over the calls of one collection."""
    import shutil
    import subprocess

    from installation import PROGRAM

    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    calls = FAULTS.rpartition(",")[0]  # opening goes on all the time, for imports
    live = stored(installation)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        words = [strace, "-f", "-qq", *options, str(PROGRAM), "gc", "--grace", "0"]
        return subprocess.run(
            words,
            check=False,
            cwd=installation.folder,
            env=installation.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    litter(installation, -1)
    log = installation.folder / "trace"
    if run("-o", os.fspath(log), "-e", f"trace={calls}").returncode != 0:
        pytest.skip("strace may not trace here")
    number = len(log.read_text().splitlines())
    assert number > 20
    hit = 0
    for when in range(1, number, max(1, number // 12)):
        litter(installation, when)
        ran = run("-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}:when={when}")
        assert "Traceback" not in ran.stderr, (when, ran.stderr)
        hit += ran.returncode != 0
        assert installation.json("audit")["ok"]
        installation.run("gc", "-y", "--grace", "0")
        assert stored(installation) == live
    assert hit
