"""What a database driver's failure means to the user: one sentence without secrets, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from ..errors import BadInputError, DatabaseReadOnlyError, DatabaseUnavailableError, RegistryError

# Primary result codes, https://www.sqlite.org/rescode.html
_BUSY, _LOCKED, _PERM, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _AUTH, _NOTADB = (
    5, 6, 3, 8, 10, 11, 13, 14, 23, 26,
)  # fmt: skip

# SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html
_LOCK_NOT_AVAILABLE, _SERIALIZATION, _DEADLOCK, _STARTING = "55P03", "40001", "40P01", "57P03"
_DENIED, _READ_ONLY, _DISK_FULL, _IDLE, _TOO_LONG = "42501", "25006", "53100", "25P03", "57014"
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
    return _sqlite_code(error) in (_BUSY, _LOCKED) or _sqlstate(error) in states


def is_outage(error: BaseException) -> bool:
    """Tell whether the connection was lost or not made, so that the server may be there again in a moment.

    A wrong password or name looks the same to the driver: ask only where it worked before.
    """
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError | DataError):
        return False
    state = _sqlstate(error)
    if error.connection_invalidated or (state or "").startswith(("08", "57P")):
        return True
    return isinstance(error, OperationalError) and state is None and _sqlite_code(error) is None


def explain(error: DBAPIError, name: str, path: Path | None, timeout: float) -> RegistryError | None:
    """Return a driver's failure as an error of ours, or None when it is a fault of the program or a broken constraint.

    Args:
        error: what SQLAlchemy raised.
        name: the database's URL, masked.
        path: the file of an SQLite database.
        timeout: seconds that were waited for locks.
    """
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
    return DatabaseUnavailableError(
        f"the database {name} is locked: another process has been writing for more than {timeout:g} s",
        hint="try again when it has finished",
    )


def _explain_sqlite(
    code: int | None, path: Path, timeout: float, reason: str
) -> DatabaseUnavailableError | None:
    if code in (_BUSY, _LOCKED):
        return _locked(str(path), timeout)
    if code == _CANTOPEN and not path.parent.is_dir():
        return DatabaseUnavailableError(
            f"cannot open the database {path}: there is no such folder", hint="fusery init"
        )
    if code == _READONLY and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        # The system did not let SQLite open it for writing, and SQLite opens it for reading then without a word.
        return DatabaseUnavailableError(
            f"the database {path} could be opened for reading only",
            hint="is the disk full, or mounted for reading only?  Run the command again",
        )
    sentences = {
        _CANTOPEN: (
            "cannot open the database {path}: permission denied, or it is not a file",
            "check who owns it",
        ),
        _READONLY: (
            "cannot write the database {path}: permission denied",
            "check who owns it and its folder",
        ),
        _PERM: ("cannot use the database {path}: permission denied", "check who owns it"),
        _AUTH: ("cannot use the database {path}: permission denied", "check who owns it"),
        _FULL: (
            "there is no space left for the database {path}",
            "free some space and run the command again",
        ),
        _IOERR: (
            "the database {path} cannot be read or written: {reason}",
            "check the disk and its free space",
        ),
        _CORRUPT: ("the database {path} is damaged: {reason}", "restore it from a backup"),
        _NOTADB: ("{path} is not an SQLite database", "restore it from a backup, or name another file"),
    }
    if code not in sentences:
        return None
    sentence, hint = sentences[code]
    return DatabaseUnavailableError(sentence.format(path=path, reason=reason), hint=hint)


def _explain_postgresql(error: DBAPIError, name: str, timeout: float) -> DatabaseUnavailableError | None:
    state = _sqlstate(error)
    if state == _LOCK_NOT_AVAILABLE:
        return _locked(name, timeout)
    if state in (_DENIED, _READ_ONLY):
        return DatabaseReadOnlyError(
            f"the database {name} refuses: {_first_line(error)}", hint="ask its owner"
        )
    if state == _TOO_LONG:
        return DatabaseUnavailableError(
            f"the database {name} took too long for one statement", hint="ask its owner what it is busy with"
        )
    if state == _DISK_FULL:
        return DatabaseUnavailableError(f"there is no space left for the database {name}")
    if state in _CORRUPTED:
        return DatabaseUnavailableError(f"the database {name} is damaged", hint="restore it from a backup")
    if error.connection_invalidated or state == _IDLE or (state or "").startswith("57P"):
        return DatabaseUnavailableError(
            f"lost the connection to the database {name}: what was being written is either there whole or not at all",
            hint="run the command again; what is already done is found",
        )
    if state is None or state[:2] in ("08", "28", "3D", "40", "53"):
        return DatabaseUnavailableError(f"cannot use the database {name}: {_unreachable(error)}")
    return None


def _unreachable(error: DBAPIError) -> str:
    """Return why a connection was refused: libpq's last line holds the server's word or the system's."""
    line = _first_line(error)
    return line.rsplit("FATAL:", 1)[-1].strip() if "FATAL:" in line else line
