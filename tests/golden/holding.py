"""What must still hold of what a release promised."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
RELEASES = sorted(
    (path.parent.name for path in HERE.glob("*/artifacts.tar.xz")),
    key=lambda name: [int(part) for part in name.split(".")],
)
"""From the oldest to the newest."""

_unpacked: dict[str, Path] = {}

ROLES = ("", "reader", "publisher", "approver", "admin")
"""From the one that may least; none where nobody has to be known."""

AREAS = (
    "commands", "exit codes", "JSON", "HTTP API", "Python API", "plugins", "settings", "findings",
    "log actions",
)  # fmt: skip
"""Parts of `surface` that are held; what lies on disks is read instead."""


def unanswered(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield where an answer is not what it was: keys may be added to it, and nothing else may change."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            if key not in now:
                yield f"{where}: {key} is gone"
            else:
                yield from unanswered(value, now[key], f"{where}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from unanswered(one, other, f"{where}[{number}]")
    elif then != now:
        yield f"{where}: {then!r} became {now!r}"


def broken(then: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Return what one surface promised and another does not keep, each by a name that stays the same."""
    return {line for area in AREAS for line in _broken(then[area], now[area], (area,))}


def _broken(then: Any, now: Any, path: tuple[str, ...]) -> Iterator[str]:
    where, key = f"{path[0]}: {' '.join(path[1:])}".strip(), path[-1]
    if isinstance(then, Mapping):
        for name, value in then.items():
            if name in now:
                yield from _broken(value, now[name], (*path, name))
            elif name not in ("choices", "required"):  # anything may be given then, or nothing has to be
                yield f"{where} {name} is gone"
        for name in now.keys() - then.keys():
            facts = now[name]
            if (key == "parameters" and facts is True) or (
                isinstance(facts, Mapping) and facts.get("required")
            ):
                yield f"{where} {name} is required"
            elif name in ("choices", "default") or (name == "always" and facts and "takes" in path):
                yield f"{where} {name} is new"
    elif isinstance(then, list):
        yield from (f"{where} {change}" for change in _changes(then, now, key, takes="takes" in path))
    elif key in ("required", "many", "role") or path[-2] == "parameters":
        order = {"many": (True, False), "role": ROLES}.get(key, (False, True))
        before, after = (order.index(value or "" if key == "role" else value) for value in (then, now))
        if after > before:
            yield f"{where} is {now}"
    elif then != now:
        yield f"{where} is {now!r}"


def _changes(then: list[str], now: list[str], key: str, *, takes: bool) -> Iterator[str]:
    lost, new = set(then) - set(now), set(now) - set(then)
    if key == "positions":
        lost = set() if now[: len(then)] == then else set(then)
    if key == "types":
        lost = lost if takes and "any" not in now else set()
        new -= {"integer"} if "number" in then else set()
    if key == "always" and takes:
        lost = set()
    yield from (f"{name} is gone" for name in lost)
    if (key == "types" and not takes and "any" not in then) or (key == "always" and takes):
        yield from (f"{name} is new" for name in new)


def unpacked(release: str, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a release's artifacts; not to be changed."""
    if release not in _unpacked:
        folder = factory.mktemp(f"golden-{release}")
        with tarfile.open(HERE / release / "artifacts.tar.xz", "r:xz") as archive:
            archive.extractall(folder, filter="data")
        _unpacked[release] = folder
    return _unpacked[release]
