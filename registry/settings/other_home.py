"""A home folder of somebody else, taken as a plain folder: a database file and a store, and nothing in it is an instruction."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from fusery.storage.copying import reading
from fusery.storage.errors import FuseryError
from fusery.storage.failures import os_failures
from fusery.storage.layout import BLOBS, FORMAT_NAME, QUARANTINE, TMP

from ..database.files import require_files
from ..errors import BadInputError
from .homes import CONFIG_NAME

_ELSEWHERE = ("database_url", "store_url", "store_options")
_LARGEST = 1 << 20
_FAN = re.compile(r"[0-9a-f]{2}")


def plain_folder(home: Path) -> tuple[Path, Path]:
    """Return where the database and the store of a home folder are: at `fusery.db` and `store`, whatever it says itself.

    Raises:
        BadInputError: it says that they are elsewhere, which only the user may say; or a part of it leads out of it.
        SchemaError: what should be the database is no file.
        StoreDeniedError: it may not be read.
    """
    elsewhere = _named_elsewhere(home)
    if elsewhere:
        raise BadInputError(
            f"{home} says that its database or store is elsewhere ({', '.join(elsewhere)}), which is not taken from it",
            hint="if you trust that, name them yourself: --database URL --store URL, and FUSERY_OTHER_STORE_OPTIONS",
        )
    database, store = home / "fusery.db", home / "store"
    require_files(database)
    require_folders(store)
    return database, store


def _named_elsewhere(home: Path) -> list[str]:
    """Return the names of the settings that lead out of a home; nothing is obeyed, and no value is kept."""
    path = home / CONFIG_NAME
    with os_failures(f"read {path}", near=path):
        if not _exists(path):
            return []
    try:
        with reading(path) as source, os.fdopen(os.dup(source.fd), "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError("too large")
        said: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (FuseryError, ValueError, RecursionError) as error:
        raise BadInputError(
            f"the settings in {path} cannot be read, so where its database and store are is not known",
            hint="name them yourself: --database URL --store URL",
        ) from error
    return [name for name in _ELSEWHERE if any(key.casefold() == name and said[key] for key in said)]


def require_folders(store: Path) -> None:
    """Refuse a store of somebody else that would have files read or written out of its folder.

    Raises:
        BadInputError: a folder of it is a link, or something else.
    """
    with os_failures(f"read {store}", near=store):
        _require(store, stat.S_ISDIR, "a folder")
        _require(store / FORMAT_NAME, stat.S_ISREG, "a file")
        blobs = store / BLOBS
        for folder in (blobs.parent, blobs, store / TMP, store / QUARANTINE):
            _require(folder, stat.S_ISDIR, "a folder")
        if not _exists(blobs):
            return
        with os.scandir(blobs) as entries:
            for entry in entries:
                if _FAN.fullmatch(entry.name):
                    _require(Path(entry.path), stat.S_ISDIR, "a folder")


def _require(path: Path, is_so: Any, what: str) -> None:
    if _exists(path) and not is_so(path.lstat().st_mode):
        raise BadInputError(
            f"{path} is not {what} but leads elsewhere, which is not followed in a folder of others",
            hint="name the place itself that it leads to",
        )


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def options_of(text: str | None) -> dict[str, Any]:
    """Return the options of a store elsewhere, which the user gave as JSON.

    Raises:
        BadInputError: they are not a JSON object.
    """
    try:
        options = json.loads(text or "{}")
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise BadInputError(
            "the options of the other store are not a JSON object",
            hint='FUSERY_OTHER_STORE_OPTIONS=\'{"profile": "team"}\'',
        )
    return options
