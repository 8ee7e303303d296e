"""What the concurrency tests run in other processes.

Each function is started with a database URL first and a connection to the test last; what it sends back is
its result.  They live outside of the test modules because a new process must be able to import them.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from programs import CONTEXT
from sqlalchemy import func, select, text

from fusery.registry import tables
from fusery.registry.database import Database, events, leases, schema
from fusery.registry.database.leases import LeaseOwner
from fusery.registry.errors import FuseryError, LeaseLostError


def upgrade_with(url: str, migrations: str, said: str) -> None:
    """Run all of the migrations in a folder; write what goes wrong to the file `said`."""
    from alembic import command
    from alembic.config import Config

    with Path(said).open("w") as file:
        os.dup2(file.fileno(), 2)
    database = Database.open(url)
    database.make_folder()
    with database.schema_change() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", migrations)
        command.upgrade(config, "head")


def upgrade(url: str, told: str) -> None:
    Path(told).write_text(schema.upgrade(Database.open(url)).status)


SPAWN = multiprocessing.get_context("spawn")
"""For a process that must be this one's own child."""


def start(
    work: Callable[..., None], *arguments: Any, context: BaseContext = CONTEXT
) -> tuple[BaseProcess, Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def run_all(work: Callable[..., None], count: int, url: str, *arguments: Any) -> list[Any]:
    """Run one function in so many processes that begin together; return what each sends back."""
    barrier = CONTEXT.Barrier(count)
    running = [start(work, url, *arguments, barrier) for _ in range(count)]
    results = [connection.recv() for _, connection in running]
    for process, _ in running:
        process.join()
    return results


def create(url: str, test: Connection) -> None:
    schema.require(Database.open(url), may_create=True)
    test.send("done")


def hand_out_versions(url: str, rounds: int, barrier: Barrier, test: Connection) -> None:
    """Take the next version of one task again and again, as `register` does; send the versions taken."""
    database = Database.open(url)
    taken = []
    barrier.wait()
    for _ in range(rounds):
        with database.write() as session:
            version = (session.scalar(select(func.max(tables.CurvePointRow.iteration))) or 0) + 1
            session.add(tables.CurvePointRow(adapter_id=1, iteration=version))
            events.record(
                session,
                action="records.changed",
                kind="task",
                subject=str(version),
                detail={},
                actor="worker",
            )
        taken.append(version)
    database.close()
    test.send(taken)


def build_each_once(url: str, keys: Sequence[str], barrier: Barrier, test: Connection) -> None:
    """Build every key unless somebody has: take the lease, look, build, publish; send the keys built here."""
    database = Database.open(url)
    built = []
    barrier.wait()
    for key in keys:
        lease = leases.wait(database, key, LeaseOwner.current())
        with lease.keep():
            with database.read() as session:
                done = session.get(tables.TaskRow, int(key))
            if done is None:
                built.append(key)
            with database.write() as session:
                lease.publish(session)
                if done is None:
                    session.add(tables.TaskRow(id=int(key), name=key))
    database.close()
    test.send(built)


def build_with_a_wrong_clock(
    url: str, keys: Sequence[str], hours: float, barrier: Barrier, test: Connection
) -> None:
    """As `build_each_once`, in a process whose clock goes wrong by so many hours, one way or the other."""
    shift = hours * 3600 * (1 if os.getpid() % 2 else -1)
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + shift
    time.time_ns = lambda: right_ns() + round(shift * 1e9)
    build_each_once(url, keys, barrier, test)


def hold_lease(url: str, key: str, ttl: float, test: Connection) -> None:
    """Take a lease and say so; when told to, try to publish, and send what came of it."""
    database = Database.open(url)
    lease = leases.acquire(database, key, LeaseOwner.current(), ttl=ttl)
    assert isinstance(lease, leases.Lease)
    test.send(lease.fence)
    test.recv()
    try:
        with database.write() as session:
            session.add(tables.TaskRow(id=1, name="from the one that slept"))
            session.flush()
            lease.publish(session)
        test.send("published")
    except LeaseLostError as error:
        test.send(error.code)
    database.close()


def hold_write_lock(url: str, test: Connection) -> None:
    database = Database.open(url)
    with database.write() as session:
        session.execute(text("INSERT INTO task (id, name) VALUES (1, 'held')"))
        test.send("writing")
        test.recv()
    database.close()
    test.send("done")


def write_once(url: str, test: Connection) -> None:
    """Write one row; send `done`, or the code of the error."""
    database = Database.open(url)
    try:
        with database.write() as session:
            session.add(tables.TaskRow(id=2, name="second"))
    except FuseryError as error:
        test.send(error.code)
    else:
        test.send("done")
    database.close()
