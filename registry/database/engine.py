"""Engines whose every connection has the same rules of transactions, and what their drivers' failures mean.

The drivers' defaults lose updates silently on both databases (docs/internals/database.md).  Here every transaction has the execution
option `purpose`:

- `read` sees one snapshot and cannot write;
- `write` waits for, and then is, the only writer;
- `schema` is a write whose foreign keys are checked at its end, so that migrations can rebuild tables.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Float, create_engine, event, select
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ..errors import BadInputError, DatabaseReadOnlyError, DatabaseUnavailableError, RegistryError
from ..tables.record import UnreadableValueError, document_text

WRITE_LOCK = int.from_bytes(b"fusery\x00\x01")  # of the advisory lock that makes write transactions exclusive

CONNECT_SECONDS = 5
IDLE_SECONDS = {"read": 900, "write": 60, "schema": 300}
STATEMENT_SECONDS = {"read": 300, "write": 120, "schema": 0}  # of a statement; 0 is without end


def make_engine(
    url: URL, *, timeout: float, connect: Callable[[], sqlite3.Connection] | None = None
) -> Engine:
    """Return an engine for an SQLite file or a PostgreSQL database; nothing is connected yet."""
    for name in ("sqlalchemy.pool", "psycopg"):
        # Without a handler, Python prints what they log of broken connections, with tracebacks, to standard error.
        if not (logger := logging.getLogger(name)).handlers:
            logger.addHandler(logging.NullHandler())
    common: dict[str, Any] = {"hide_parameters": True, "json_serializer": document_text}
    if url.get_backend_name() == "sqlite":
        if connect is not None:
            # A transaction each: the next one may have to open the file in another mode.
            common |= {"creator": connect, "poolclass": NullPool}
        engine = create_engine(url, **common)
        _prepare_sqlite(engine, timeout)
        return engine
    # Server-side prepared statements and start-up options do not survive pgbouncer; SET LOCAL does.
    arguments = {
        "prepare_threshold": None,
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "fusery",
        # A server that vanished without a word is noticed within 40 s.
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": 40_000,  # milliseconds
    }
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, **common)
    _prepare_postgresql(engine, timeout)
    return engine


@event.listens_for(Engine, "handle_error")
def _name_unreadable(context: ExceptionContext) -> None:
    """Raise `UnreadableValueError` for a value that the driver cannot read: no UTF-8 (SQLite), infinite moments (PostgreSQL)."""
    error = context.original_exception
    sqlite = str(error).startswith("Could not decode to UTF-8")
    postgresql = type(error).__name__ == "DataError" and getattr(error, "sqlstate", "") is None
    # A text with NUL is refused on its way to the database.
    if sqlite or (postgresql and "NUL" not in str(error)):
        raise UnreadableValueError(f"the database has an invalid value: {str(error).splitlines()[0][:120]}")


def _purpose(connection: Connection) -> str:
    return str(connection.get_execution_options().get("purpose", "read"))


def _prepare_sqlite(engine: Engine, timeout: float) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # or the driver begins transactions by itself, and only some
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(timeout * 1000)}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA cell_size_check=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        purpose = _purpose(connection)
        # None of these can be changed inside of a transaction, and connections are shared by all purposes.
        connection.exec_driver_sql(f"PRAGMA foreign_keys={'OFF' if purpose == 'schema' else 'ON'}")
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if purpose == 'read' else 'OFF'}")
        if purpose == "read":
            connection.exec_driver_sql("BEGIN")
            return
        # Not when connecting: it changes the file, which may turn out to belong to another program.
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_postgresql(engine: Engine, timeout: float) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        purpose = _purpose(connection)
        statements = [
            f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_SECONDS[purpose] * 1000}",
            f"SET LOCAL statement_timeout = {STATEMENT_SECONDS[purpose] * 1000}",
            f"SET LOCAL lock_timeout = {round(timeout * 1000)}",
            # Tables that were not analysed yet look large: compiling for them takes longer than any statement here does.
            "SET LOCAL jit = off",
        ]
        if purpose == "read":
            statements.append("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        else:
            statements.append(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
        # One round trip: without parameters psycopg sends several statements at once.
        connection.exec_driver_sql("; ".join(statements), execution_options={"no_parameters": True})


class Clock(FunctionElement[float]):
    """Seconds since 1970 on the database's clock, at the moment the statement runs."""

    type = Float()
    inherit_cache = True


@compiles(Clock, "sqlite")
def _clock_sqlite(element: Clock, compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Clock, "postgresql")
def _clock_postgresql(element: Clock, compiler: SQLCompiler, **_: Any) -> str:
    # now() would be the transaction's start, which may lie behind a long wait for a lock.
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


def utcnow(session: Session) -> datetime:
    """Return the time of the database's clock, aware and in UTC."""
    return datetime.fromtimestamp(session.scalars(select(Clock())).one(), UTC)


def insert(session: Session, table: Any) -> Any:
    """Return the dialect's INSERT, which has `on_conflict_do_update`; PostgreSQL's is imported only there."""
    return import_module(f"sqlalchemy.dialects.{session.get_bind().dialect.name}").insert(table)


Value = TypeVar("Value")

BATCH = 500


def batches(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Yield the values, each once and in their order, in lists of at most `BATCH`."""
    waiting = iter(dict.fromkeys(values))
    while batch := list(islice(waiting, BATCH)):
        yield batch


_SQLITE_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SQLITE_REFUSED = (
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
    *(sqlite3.SQLITE_AUTH, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
)

# SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html
_LOCK_NOT_AVAILABLE, _SERIALIZATION, _DEADLOCK, _STARTING = "55P03", "40001", "40P01", "57P03"
_DENIED, _READ_ONLY, _IDLE, _TOO_LONG = "42501", "25006", "25P03", "57014"
_CORRUPTED = ("XX001", "XX002")


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def _sqlstate(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return None if state is None else str(state)


def is_transient(error: BaseException) -> bool:
    """Tell whether beginning the same transaction again may succeed."""
    if not isinstance(error, DBAPIError):
        return False
    states = (_LOCK_NOT_AVAILABLE, _SERIALIZATION, _DEADLOCK, _STARTING)
    return _sqlite_code(error) in _SQLITE_BUSY or _sqlstate(error) in states


def is_outage(error: BaseException) -> bool:
    """Tell whether the connection failed; a wrong password looks the same, so ask only where it worked before."""
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError | DataError):
        return False
    state = _sqlstate(error)
    if error.connection_invalidated or (state or "").startswith(("08", "57P")):
        return True
    return isinstance(error, OperationalError) and state is None and _sqlite_code(error) is None


def explain(error: DBAPIError, name: str, path: Path | None, timeout: float) -> RegistryError | None:
    """Return a driver's failure as an error of ours, or None when it is a fault of the program or a broken constraint."""
    if isinstance(error, IntegrityError):
        return None
    if isinstance(error, DataError):
        return BadInputError(f"the database refuses a value: {_first_line(error)}")
    if path is not None:
        return _explain_sqlite(_sqlite_code(error), path, timeout, _first_line(error))
    return _explain_postgresql(error, name, timeout)


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0][:300]


def _locked(name: str, timeout: float) -> DatabaseUnavailableError:
    problem = f"the database {name} is locked: another process has been writing for more than {timeout:g} s"
    return DatabaseUnavailableError(problem, hint="try again when it has finished")


def _explain_sqlite(
    code: int | None, path: Path, timeout: float, reason: str
) -> DatabaseUnavailableError | None:
    if code in _SQLITE_BUSY:
        return _locked(str(path), timeout)
    if code == sqlite3.SQLITE_CANTOPEN and not path.parent.is_dir():
        problem = f"cannot open the database {path}: there is no such folder"
        return DatabaseUnavailableError(problem, hint="fusery base add MODEL")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        problem = f"the database {path} is damaged, or not an SQLite database: {reason}"
        return DatabaseUnavailableError(problem, hint="restore it from a backup, or name another file")
    if code in _SQLITE_REFUSED:
        # SQLite opens a file for reading where the system does not let it open it for writing.
        problem = f"cannot use the database {path}: {reason}"
        hint = "check who owns it and its folder, the disk, and its free space; run the command again"
        return DatabaseUnavailableError(problem, hint=hint)
    return None


def _explain_postgresql(error: DBAPIError, name: str, timeout: float) -> DatabaseUnavailableError | None:
    state = _sqlstate(error)
    if state == _LOCK_NOT_AVAILABLE:
        return _locked(name, timeout)
    if state in (_DENIED, _READ_ONLY):
        problem = f"the database {name} refuses: {_first_line(error)}"
        return DatabaseReadOnlyError(problem, hint="ask its owner")
    if state == _TOO_LONG:
        problem = f"the database {name} took too long for one statement"
        return DatabaseUnavailableError(problem, hint="ask its owner to stop it")
    if state in _CORRUPTED:
        return DatabaseUnavailableError(f"the database {name} is damaged", hint="restore it from a backup")
    if error.connection_invalidated or state == _IDLE or (state or "").startswith("57P"):
        problem = f"lost the connection to the database {name}: the transaction is there whole or not at all"
        hint = "run the command again; what is already done is found"
        return DatabaseUnavailableError(problem, hint=hint)
    if state is None or state[:2] in ("08", "28", "3D", "40", "53"):
        reason = _first_line(error).rpartition("FATAL:")[2].strip()
        return DatabaseUnavailableError(f"cannot use the database {name}: {reason}")
    return None
