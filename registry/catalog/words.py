"""Recorded names for shell completion: read within a moment, or not at all.

A shell calls this at each press of the key.  So nothing slow is imported, nothing is created or written (an SQLite file
is opened read-only), there are no long waits, and a database that cannot be read has no names.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fusery.storage.errors import FuseryError

from ..workspace.homes import CONFIG_NAME, EMBEDDED, default_home, expanded

Kind = Literal["adapter", "latest", "alias", "alias_name", "task", "base", "webhook"]

MOST = 200  # names of a kind; the newest ones of adapters
_SECONDS = 2
_NAMES: dict[Kind, str] = {
    "adapter": "SELECT name AS word, -id AS place FROM adapter",
    "latest": "SELECT name || '@latest' AS word, 0 AS place FROM task",
    "alias": (
        "SELECT task.name || '#' || alias.name AS word, 0 AS place FROM alias JOIN task ON task.id = alias.task_id"
    ),
    "alias_name": "SELECT DISTINCT name AS word, 0 AS place FROM alias",
    "task": "SELECT name AS word, 0 AS place FROM task",
    "base": "SELECT name AS word, 0 AS place FROM base_name",
    "webhook": "SELECT name AS word, 0 AS place FROM webhook",
}


def names_beginning(prefix: str, kinds: Iterable[Kind], *, home: Path | None = None) -> list[str]:
    """Return recorded names with a prefix, ignoring case, kind by kind; none if the database cannot be read."""
    folder = expanded(home or default_home()).absolute()
    is_set = any(name.upper() == "FUSERY_DATABASE_URL" and value for name, value in os.environ.items())
    try:
        file = folder / EMBEDDED
        if is_set or (folder / CONFIG_NAME).exists():
            from ..workspace.settings import Settings

            scheme, _, rest = Settings.load(folder).database.partition("://")
            if scheme.partition("+")[0] != "sqlite":  # names of other databases are not completed
                return []
            file = Path(rest.removeprefix("/").partition("?")[0])
        names = dict.fromkeys(_read(file, prefix, list(kinds)))
        # Shells would act on line breaks and escapes in the names of a foreign database.
        return [word for word in names if word.isprintable() and not any(map(str.isspace, word))]
    except (FuseryError, OSError, ValueError, ImportError, sqlite3.Error):
        return []


def _read(path: Path, prefix: str, kinds: Sequence[Kind]) -> Iterator[str]:
    # An immutable database needs no further files.  While another process writes, its log has the newest rows.
    busy, index = (path.with_name(f"{path.name}-{part}") for part in ("wal", "shm"))
    journal = busy.is_file() and busy.stat().st_size and index.is_file()
    way = "mode=ro" if journal else "mode=ro&immutable=1"
    place = f"file:{quote(str(path))}?{way}"
    with closing(sqlite3.connect(place, uri=True, timeout=_SECONDS)) as connection:
        # Signals are not heard inside SQLite, where a view may be without end.
        until = time.monotonic() + _SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        for kind in kinds:
            begins = "lower(substr(word, 1, ?)) = ?"
            query = f"SELECT word FROM ({_NAMES[kind]}) WHERE {begins} ORDER BY place, word LIMIT {MOST}"
            rows = connection.execute(query, (len(prefix), prefix.lower()))
            yield from (str(word) for (word,) in rows)
