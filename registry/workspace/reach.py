"""How far the settings in a folder reach: what only the user may say, and how a folder is known to be the user's.

A home folder may come from anybody: unpacked from an archive, or on a disk that others write to.  Its `config.toml` is read
wherever it lies, but what leads out of the folder (other hosts, other files of this machine, credentials) counts only
in the user's own home, and what starts a program counts in no file at all.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusery.storage.errors import typed
from fusery.storage.failures import os_failures
from fusery.storage.layout import BLOBS, FORMAT_NAME, QUARANTINE, TMP

from ..errors import BadInputError

STARTING = frozenset(
    {"agent_forwarding", "agent_path", "config", "pkcs11_provider", "proxy_command", "send_env"}
)
"""Options of a store that run a command, load a library or a file that names some, or hand on what the user has."""

_FAN = re.compile(r"[0-9a-f]{2}")
_INNER_DATABASE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>[^?]*)")


def require_allowed(folder: Path, settings: Mapping[str, Any], *, own: bool) -> None:
    """Refuse what a folder's settings may not say; `own`: it is the home that the user's environment names."""
    path = folder / "config.toml"
    if starting := sorted(set(_names(settings.get("store_options") or {})) & STARTING):
        problem = f"store_options in {path} may not have {', '.join(starting)}, which can start a program"
        raise BadInputError(problem, hint="give all of the options in FUSERY_STORE_OPTIONS")
    leading = [name for name, value in settings.items() if value and _leads_out(folder, name, value)]
    if not leading:
        return
    names = ", ".join(sorted(leading))
    variables = ", ".join(f"FUSERY_{name.upper()}" for name in sorted(leading))
    if not own:
        problem = f"{path} leads out of its folder ({names}), which counts in your own home only"
        hint = f"if you trust it, make it yours: export FUSERY_REGISTRY={typed(folder)}; or set {variables}"
        raise BadInputError(problem, hint=hint)
    for place in (folder, path):
        stats = place.stat()
        # Many systems give each user a group of their own.
        group = stats.st_mode & 0o020 and stats.st_gid != os.getgid()
        if stats.st_uid not in (0, os.getuid()) or stats.st_mode & 0o002 or group:
            problem = f"{path} leads out of its folder ({names}), and others can write {place}"
            hint = f"make both yours alone: chmod go-w {typed(folder)} {typed(path)}; or set {variables}"
            raise BadInputError(problem, hint=hint)


def _names(options: Any) -> Iterator[str]:
    """Yield the names of options that have a value, at any depth."""
    waiting = [options]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            yield from (str(name).casefold() for name, value in item.items() if value)
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _leads_out(folder: Path, name: str, value: Any) -> bool:
    match name:
        case "store_options":
            return True
        case "store_url":
            return "://" in value or "::" in value or _is_outside(folder, value)
        case "database_url":
            match = _INNER_DATABASE.fullmatch(value.partition("?")[0])
            return match is None or _is_outside(folder, match["path"])
        case "cache_dir" | "card":
            return _is_outside(folder, value)
    return False


def _is_outside(folder: Path, path: str | Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def require_folders(store: Path) -> None:
    """Refuse a local store whose folders are links: a backup of others could have files outside of it read or written."""
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
        raise BadInputError(f"{path} is not {what}", hint="give the place that it leads to")


def options_of(text: str | None) -> Mapping[str, Any]:
    """Parse the options of another store, which the user gives as JSON."""
    try:
        options = json.loads(text or "{}")
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        hint = 'FUSERY_OTHER_STORE_OPTIONS=\'{"profile": "team"}\''
        raise BadInputError("the options of the other store are not a JSON object", hint=hint)
    return options
