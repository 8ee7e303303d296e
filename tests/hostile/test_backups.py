"""Hostile backups: each is refused in one sentence, and nothing of it is restored."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hostile.arena import Arena, Ran, require_plain
from package_files import Document, Lines, blob_path, change_contents, change_lines, change_member

from fusery.registry import Registry
from fusery.registry.database import Database, schema

Make = Callable[[Path], object]  # of the folder with the backup `saved`


@dataclass(frozen=True, slots=True)
class Case:
    make: Make
    says: str
    own: bool = False


def contents(change: Callable[[Document], object]) -> Make:
    return lambda folder: change_contents((folder / "saved"), change)


def raw(data: bytes) -> Make:
    def make(folder: Path) -> None:
        path = (folder / "saved") / "package.json"
        path.unlink()
        path.write_bytes(data)

    return make


def rows(table: str, change: Callable[[Lines], object]) -> Make:
    return lambda folder: change_lines((folder / "saved"), f"rows/{table}.ndjson", change)


def each(column: str, value: Any) -> Callable[[Lines], object]:
    def change(lines: Lines) -> None:
        assert lines
        for line in lines:
            assert column in line
            line[column] = value

    return change


def _first_file(folder: Path) -> Path:
    document = json.loads(((folder / "saved") / "package.json").read_text())
    return blob_path((folder / "saved"), document["members"][0]["sha256"])


def _instead(find: Callable[[Path], Path], make: Callable[[Path], object]) -> Make:
    def spoil(folder: Path) -> None:
        path = find(folder)
        path.unlink()
        make(path)

    return spoil


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def _linked(folder: Path) -> None:
    ((folder / "saved") / "blobs").rename(folder / "moved")
    ((folder / "saved") / "blobs").symlink_to(folder / "moved")


def _of_file(**values: Any) -> Make:
    return contents(lambda document: document["members"][0].update(values))


def _bases(change: Callable[[bytes], bytes]) -> Make:
    return lambda folder: change_member((folder / "saved"), "documents/base.ndjson", change)


def _without(folder: str) -> Make:
    def keep(document: Document) -> None:
        kept = [each for each in document["members"] if not each["name"].startswith(folder)]
        document["members"] = kept

    return contents(keep)


_PACKAGE: Mapping[str, tuple[str, Make]] = {
    "a pipe": (
        "not a file|registry not found", _instead(lambda s: (s / "saved") / "package.json", os.mkfifo)
    ),
    "too large": ("too large", raw(b" " * (2 << 20))),
    "another form": ("unknown format", contents(lambda d: d.update(format="\x1b[2J"))),
    "a file of an exabyte": ("must be free|more than 2 GiB", _of_file(size=1 << 60)),
    "a file that is a pipe": (
        "promised|not a regular|digest differs", _instead(_first_file, os.mkfifo)
    ),
    "a file of a terabyte": ("digest differs", _instead(_first_file, _sparse)),
    "a file that is a link": (
        "promised|differs|symbolic",
        _instead(_first_file, lambda path: path.symlink_to("/etc/hostname")),
    ),
    "blobs elsewhere": ("is not a folder", _linked),
    "no documents": ("has no documents", _without("documents/")),
    "no lines but bytes": ("invalid JSON", _bases(lambda _: bytes(1000) + b"\n")),
    "a line of numbers": ("invalid JSON", _bases(lambda _: b"[" + b"1," * 2_100_000 + b"1]\n")),
    "a line of 100 MB": ("invalid JSON", _bases(lambda _: b'{"names": ["' + b"x" * 100_000_000 + b'"]}\n')),
    "a line that is no document": ("has an invalid document in line 1", _bases(lambda _: b"{}\n")),
    "fewer lines than promised": ("lines, but", _of_file(lines=7)),
}  # fmt: skip
_DAMAGED: Mapping[str, Make] = {
    "no JSON": raw(b"{"),
    "a registry whose id climbs": contents(lambda d: d.update(registry="../../x")),
    "a file whose name climbs": _of_file(name="rows/../x.ndjson"),
    "a column with SQL in it": contents(
        lambda d: d["members"][-1]["columns"].update({"x) SELECT 1; --": "text"})
    ),
    "a digest that climbs": _of_file(sha256="../" * 21 + "x"),
}
_ROWS: Mapping[str, tuple[str, Make]] = {
    "a schema of the future": ("supports up to", contents(lambda d: d.update(schema="9999"))),
    "a file of no table": ("belongs to no table", _of_file(name="rows/sqlite_master.ndjson")),
    "no tables": ("is missing", _without("rows/")),
    "a blob's size below nothing": ("another number of blobs", rows("blob", each("size", -5))),
    "a blob without a row": ("another number of blobs", rows("blob", lambda lines: lines.pop())),
    "rows twice": ("the database refuses", rows("task", lambda lines: lines.append(dict(lines[0])))),
    "a log that was changed": ("breaks the chain", rows("event", each("actor", "somebody"))),
    "a log without its end": ("does not end", rows("event", lambda lines: lines.pop())),
    "a file that climbs": ("that do not have its digest", rows("manifest_file", lambda lines: lines[0].update(path="../../.bashrc"))),
    "other files of a digest": ("that do not have its digest", rows("manifest_file", each("size", 7))),
    "blobs that nobody refers to": ("does not list the blobs", rows("manifest_file", each("blob", None))),
    "a moment before all time": (
        "invalid value in line 1", rows("base_model", each("created_at", "0001-01-01T00:00:00+23:59"))
    ),
    "a number too wide": ("invalid value in line 1", rows("manifest", each("size", 1 << 70))),
}  # fmt: skip

BACKUPS: Mapping[str, Case] = {
    **{name: Case(make, says) for name, (says, make) in _PACKAGE.items()},
    **{name: Case(make, "is damaged, or not a package") for name, make in _DAMAGED.items()},
    **{name: Case(make, says, own=True) for name, (says, make) in _ROWS.items()},
}


pytestmark = pytest.mark.timing


def refused(arena: Arena, folder: Path, case: Case) -> Ran:
    """Let a backup be refused: one's own by `restore --own`, another party's by `pull`."""
    new, saved = folder / "new", folder / "saved"
    words = ("admin", "restore", saved, "--own") if case.own else ("pull", "*", "--from", saved)
    ran = arena.fusery(*words, home=new)
    require_plain(ran)
    errors = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert (ran.code, ran.out, len(errors)) == (2, "", 1), ran
    assert re.search(case.says, errors[0]) and len(errors[0]) <= 1000, ran
    if case.own:
        with closing(Database.open(f"sqlite:///{new}/fusery.db")) as database:
            assert schema.state(database).status == "empty"
    elif (new / "fusery.db").exists():
        with Registry.open(new) as registry:
            assert (registry.adapters.list(), registry.bases.list()) == ([], [])
    return ran


@pytest.fixture
def folder(saved_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved_once, tmp_path / "saved", symlinks=True)
    return tmp_path


@pytest.mark.parametrize("case", BACKUPS.values(), ids=BACKUPS.keys())
def test_restore_refuses(arena: Arena, folder: Path, case: Case) -> None:
    case.make(folder)
    refused(arena, folder, case)


def test_a_sound_one_is_restored_where_a_hostile_one_was_refused(
    arena: Arena, folder: Path, saved_once: Path
) -> None:
    case = BACKUPS["a line that is no document"]
    case.make(folder)
    refused(arena, folder, case)
    assert arena.fusery("pull", "*", "--from", saved_once, home=folder / "new").code == 0
    with Registry.open(folder / "new") as registry:
        assert len(registry.adapters.list()) == 2
        assert registry.upkeep.audit().ok
