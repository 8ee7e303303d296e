"""Backups that somebody made to be restored by others: every digest in them is right, since who lies can count."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.stage import Stage

from fusery.storage.digest import digest_json

Make = Callable[[Stage], object]
Document = dict[str, Any]
Lines = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    make: Make
    says: str


def place(stage: Stage) -> Path:
    return stage.folder / "saved"


def catalogue(change: Callable[[Document], object]) -> Make:
    def make(stage: Stage) -> None:
        path = place(stage) / "backup.json"
        document = json.loads(path.read_text())
        document.pop("sha256")
        change(document)
        write(stage, json.dumps({**document, "sha256": digest_json(document)}).encode())

    return make


def raw(data: bytes) -> Make:
    return lambda stage: write(stage, data)


def write(stage: Stage, data: bytes) -> None:
    path = place(stage) / "backup.json"
    path.unlink()
    path.write_bytes(data)


def contents(name: str, change: Callable[[bytes], bytes]) -> Make:
    def make(stage: Stage) -> None:
        def within(document: Document) -> None:
            [file] = [file for file in document["files"] if file["name"] == name]
            data = change(_blob(stage, file["sha256"]).read_bytes())
            file["sha256"], file["size"] = hashlib.sha256(data).hexdigest(), len(data)
            file["rows"] = data.count(b"\n")
            path = _blob(stage, file["sha256"])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

        catalogue(within)(stage)

    return make


def rows(table: str, change: Callable[[Lines], object]) -> Make:
    def within(data: bytes) -> bytes:
        lines = [json.loads(line) for line in data.splitlines()]
        change(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return contents(f"{table}.ndjson", within)


def each(column: str, value: Any) -> Callable[[Lines], object]:
    def change(lines: Lines) -> None:
        assert lines
        for line in lines:
            assert column in line
            line[column] = value

    return change


def _blob(stage: Stage, digest: str) -> Path:
    return place(stage) / "blobs" / "sha256" / digest[:2] / digest


def _first_file(stage: Stage) -> Path:
    document = json.loads((place(stage) / "backup.json").read_text())
    return _blob(stage, document["files"][0]["sha256"])


def _instead(find: Callable[[Stage], Path], make: Callable[[Path, Stage], object]) -> Make:
    def spoil(stage: Stage) -> None:
        path = find(stage)
        path.unlink()
        make(path, stage)

    return spoil


def _sparse(path: Path, _: Stage) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def _linked(stage: Stage) -> None:
    (place(stage) / "blobs").rename(stage.folder / "moved")
    (place(stage) / "blobs").symlink_to(stage.folder / "moved")


def _of_file(**values: Any) -> Make:
    return catalogue(lambda document: document["files"][0].update(values))


def _task(data: bytes) -> Make:
    return contents("task.ndjson", lambda _: data)


_SAID: Mapping[str, tuple[str, Make]] = {
    "a pipe": ("not a file", _instead(lambda s: place(s) / "backup.json", lambda path, _: os.mkfifo(path))),
    "too large": ("too large", raw(b" " * (2 << 20))),
    "another form": ("unknown format", catalogue(lambda d: d.update(format="\x1b[2J"))),
    "a schema of the future": ("supports up to", catalogue(lambda d: d.update(schema="9999"))),
    "a file of an exabyte": ("must be free", _of_file(size=1 << 60)),
    "a file of no table": ("", _of_file(name="sqlite_master.ndjson")),
    "a table that is missing": ("is missing", catalogue(lambda d: d["files"].pop(0))),
    "a file that is a pipe": (
        "promised|not a regular|digest differs", _instead(_first_file, lambda path, _: os.mkfifo(path))
    ),
    "a file of a terabyte": ("digest differs", _instead(_first_file, _sparse)),
    "a file that is a link": (
        "promised|differs|symbolic",
        _instead(_first_file, lambda path, stage: path.symlink_to(stage.home / "fusery.db")),
    ),
    "blobs elsewhere": ("leads elsewhere", _linked),
    "a blob's size below nothing": ("another number of blobs", rows("blob", each("size", -5))),
    "a blob without a row": ("another number of blobs", rows("blob", lambda lines: lines.pop())),
    "rows twice": ("the database refuses", rows("task", lambda lines: lines.append(dict(lines[0])))),
    "a log that was changed": ("breaks the chain", rows("event", each("actor", "somebody"))),
    "a log without its end": ("does not end", rows("event", lambda lines: lines.pop())),
    "a file that climbs": ("that do not have its digest", rows("manifest_file", lambda lines: lines[0].update(path="../../.bashrc"))),
    "a file with an escape": ("that do not have its digest", rows("manifest_file", lambda lines: lines[0].update(path="a\x1b[2J"))),
    "other files of a digest": ("that do not have its digest", rows("manifest_file", each("size", 7))),
    "blobs that nobody refers to": ("does not list the blobs", rows("manifest_file", each("blob", None))),
}  # fmt: skip
_DAMAGED: Mapping[str, Make] = {
    "no JSON": raw(b"{"),
    "a store whose id climbs": catalogue(lambda d: d.update(store="../../x")),
    "a schema before the first": catalogue(lambda d: d.update(schema="0000")),
    "sizes below nothing": _of_file(size=-1),
    "blobs without number": catalogue(lambda d: d["blobs"].update(count=1 << 50)),
    "a file whose name climbs": _of_file(name="../x.ndjson"),
    "a column with SQL in it": catalogue(
        lambda d: d["files"][0]["columns"].update({"x) SELECT 1; --": "text"})
    ),
    "a digest that climbs": _of_file(sha256="../" * 21 + "x"),
}
_NOT_JSON: Mapping[str, bytes] = {
    "no lines but bytes": bytes(1000) + b"\n",
    "a line of numbers": b"[" + b"1," * 2_100_000 + b"1]\n",
}
_VALUES: Mapping[str, tuple[str, str, Any]] = {
    "a base with NUL": ("base_name", "name", "a\x00"),
    "a moment before all time": ("base_model", "created_at", "0001-01-01T00:00:00+23:59"),
    "a number too wide": ("manifest", "size", 1 << 70),
}

BACKUPS: Mapping[str, Case] = {
    **{name: Case(make, says) for name, (says, make) in _SAID.items()},
    **{name: Case(make, "is damaged, or not a backup") for name, make in _DAMAGED.items()},
    **{name: Case(_task(data), "invalid JSON") for name, data in _NOT_JSON.items()},
    "a line of 100 MB": Case(
        contents("task.ndjson", lambda _: b'{"id": 1, "name": "' + b"x" * 100_000_000 + b'"}\n'),
        "invalid JSON",
    ),
    **{
        name: Case(rows(table, each(column, value)), "has an invalid value in line 1")
        for name, (table, column, value) in _VALUES.items()
    },
}
