"""What the tests of bulk work and backups run in other processes, which must be able to import it."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

import tiny_models
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.errors import BadInputError


def work(home: Path, url: str, folder: Path, base: Path, number: int, stop: Event) -> None:
    """Register, move aliases, fuse, yank and collect, as fast as it goes."""
    with Registry(open_workspace(home / f"machine{number % 2}", url, str(home / "store"))) as registry:
        turn = 0
        while not stop.is_set():
            turn += 1
            seed = number * 1000 + turn
            adapter = tiny_models.make_adapter(folder / f"{number}-{turn}", base, seed=seed)
            name = registry.adapters.register(adapter, base="tiny", task="course_rec")["name"]
            registry.aliases.set("prod", name, reason=f"turn {turn} of {number}")
            if turn % 2:
                registry.fused.fuse(name)
            else:
                registry.upkeep.gc(grace=0)


def double(number: int) -> int:
    """Double a number; odd ones are refused."""
    if number % 2:
        raise BadInputError(f"{number} is odd", hint="take another")
    return 2 * number


def break_off(number: int) -> int:
    raise ZeroDivisionError(str(number))


def die_once(path: str) -> str:
    """Kill the process, unless somebody has died of this item before."""
    mark = Path(path)
    if mark.name.startswith("deadly") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark.name


def die(path: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return path


def leave_once(path: str) -> str:
    """Do an item; the first time, kill the process a moment later: the result is lost unless it was fetched before."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return path
