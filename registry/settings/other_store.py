"""Stores other than the registry's own: their options, and what the folder of a backup may not contain."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from fusery.storage.failures import os_failures
from fusery.storage.layout import BLOBS, FORMAT_NAME, QUARANTINE, TMP

from ..errors import BadInputError

_FAN = re.compile(r"[0-9a-f]{2}")


def require_folders(store: Path) -> None:
    """Refuse a local store whose folders are links: a backup of others could have files outside of it read or written.

    Raises:
        BadInputError: a folder of the store is a link or a special file.
    """
    with os_failures(f"read {store}", near=store):
        _require(store, stat.S_ISDIR, "a folder")
        _require(store / FORMAT_NAME, stat.S_ISREG, "a file")
        blobs = store / BLOBS
        for folder in (blobs.parent, blobs, store / TMP, store / QUARANTINE):
            _require(folder, stat.S_ISDIR, "a folder")
        if not os.path.lexists(blobs):
            return
        with os.scandir(blobs) as entries:
            for entry in entries:
                if _FAN.fullmatch(entry.name):
                    _require(Path(entry.path), stat.S_ISDIR, "a folder")


def _require(path: Path, is_so: Any, what: str) -> None:
    if os.path.lexists(path) and not is_so(path.lstat().st_mode):
        raise BadInputError(
            f"{path} is not {what} but leads elsewhere, which is not followed in a folder of others",
            hint="name the place itself that it leads to",
        )


def options_of(text: str | None) -> dict[str, Any]:
    """Parse the options of another store, which the user gives as JSON.

    Raises:
        BadInputError: the text is not a JSON object.
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
