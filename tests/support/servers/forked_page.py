"""`fusery server` in a process that has its imports when it begins, for what is killed and started again and again.  What is to be said of the command as a whole takes `page_process`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import ready_processes


@contextmanager
def forked(home: Path, *words: str, **environment: str) -> Iterator[tuple[BaseProcess, str]]:
    """Start it, and yield the process and what it printed as JSON."""
    ours, theirs = ready_processes.CONTEXT.Pipe(duplex=False)
    told = os.environ | {"FUSERY_REGISTRY": str(home), "BROWSER": "true"} | environment
    process = ready_processes.CONTEXT.Process(target=_run, args=(words, dict(told), theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        with open(os.dup(ours.fileno())) as printed:  # noqa: PTH123 - it is no path
            lines = printed.readline()
            while lines and not lines.endswith("}\n"):
                lines += printed.readline()
            yield process, lines
    finally:
        process.kill()
        process.join()
        ours.close()


def _run(words: tuple[str, ...], environment: Mapping[str, str], printed: Connection) -> None:
    from fusery.cli.main import run

    os.environ.clear()  # it is that of whoever started the server of forks first
    os.environ.update(environment)
    os.dup2(printed.fileno(), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise SystemExit(run(list(words)))
