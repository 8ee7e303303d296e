"""Commands in forks of a process that has imported all they need: no second is lost to start-up, and no fault hits it."""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

_PR_SET_PTRACER = (
    0x59616D61  # linux/prctl.h; Ubuntu lets only a parent trace, unless a process says otherwise
)

PATIENCE = 900.0
"""Seconds after which a command hangs, on a machine that is busy with other things."""


@dataclass(frozen=True, slots=True)
class Job:
    work: Callable[..., object]
    arguments: Sequence[Any]
    environment: Mapping[str, str]
    folder: Path
    output: Path
    stopped: bool = False

    def said(self) -> tuple[str, str]:
        out, err = (Path(f"{self.output}{suffix}") for suffix in (".out", ".err"))
        return out.read_text(errors="replace"), err.read_text(errors="replace")


class HangsError(Exception):
    """A command did not end."""


class Nursery:
    """A process that forks; one job at a time.  It starts with the first job."""

    def __init__(self, modules: Iterable[str] = (), *, forks: bool = True) -> None:
        self._modules, self._forks = sorted(modules), forks
        self._requests: Connection | None = None
        self._process: BaseProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._requests is not None and self._process is not None:
            self._requests.close()
            self._process.join()

    def begin(self, job: Job) -> int:
        if self._process is None or not self._process.is_alive():  # it did a job itself that did not end
            context = multiprocessing.get_context("spawn")
            self._requests, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._modules, self._forks))
            self._process.start()
            theirs.close()
        self._requests.send(job)
        return int(self._requests.recv())

    def end(self, pid: int) -> int:
        if not self._requests.poll(PATIENCE):
            os.kill(pid, signal.SIGKILL)
            self._exit_code()
            raise HangsError(f"no end after {PATIENCE:.0f} s")
        return self._exit_code()

    def _exit_code(self) -> int:
        try:
            return int(self._requests.recv())
        except EOFError:  # it did the job itself, and died of it
            self._process.join()
            return self._process.exitcode or 0

    def run(self, job: Job) -> int:
        return self.end(self.begin(job))


def _serve(requests: Connection, modules: Sequence[str], forks: bool) -> None:
    for module in modules:
        with suppress(ImportError):
            importlib.import_module(module)
    _warm()
    fork = multiprocessing.get_context("fork")
    with suppress(EOFError):
        while True:
            job = requests.recv()
            if not forks:
                requests.send(os.getpid())
                requests.send(_do(job))
                continue
            process = fork.Process(target=_work, args=(job,))
            process.start()
            requests.send(process.pid)
            process.join()
            requests.send(process.exitcode)


def _warm() -> None:
    """Do once what each fork would have to do; and let no collection of garbage touch, and so copy, what they share."""
    from sqlalchemy.orm import configure_mappers

    configure_mappers()
    gc.collect()
    gc.freeze()


def _do(job: Job) -> int:
    try:
        _work(job)
    except Exception:  # noqa: BLE001  the other side reads it
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _work(job: Job) -> None:
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    for number, suffix in ((1, ".out"), (2, ".err")):
        target = os.open(f"{job.output}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, number)
        os.close(target)
    if job.stopped:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1 & 0xFFFFFFFFFFFFFFFF), 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    job.work(*job.arguments)


def run_command(words: Sequence[str]) -> None:
    from fusery.cli.main import main

    main(list(words))


def run_all(prepare: Callable[..., object], arguments: Sequence[Any], note: Path) -> None:
    """Do something for the first time, and note which modules that took, one a line."""
    prepare(*arguments)
    note.write_text("\n".join(name for name in sys.modules if not name.startswith("_")))
