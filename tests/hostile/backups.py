"""Backups that somebody made to be restored by others: every digest in them is right, since who lies can count.

Import it as `from hostile.backups import BACKUPS`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hostile.homes import Case, Make
from hostile.stage import Stage

from fusery.storage.digest import digest_json

RESTORE = (("restore",),)
Document = dict[str, Any]
Lines = list[dict[str, Any]]


def place(stage: Stage) -> Path:
    """Return the folder of the backup."""
    return stage.folder / "saved"


def catalogue(change: Callable[[Document], object]) -> Make:
    """Return a function that changes `backup.json`, and makes its digest right again."""

    def make(stage: Stage) -> None:
        path = place(stage) / "backup.json"
        document = json.loads(path.read_text())
        document.pop("sha256")
        change(document)
        write(stage, json.dumps({**document, "sha256": digest_json(document)}).encode())

    return make


def raw(data: bytes) -> Make:
    """Return a function that puts other bytes in the place of `backup.json`."""
    return lambda stage: write(stage, data)


def write(stage: Stage, data: bytes) -> None:
    path = place(stage) / "backup.json"
    path.unlink()
    path.write_bytes(data)


def contents(name: str, change: Callable[[bytes], bytes]) -> Make:
    """Return a function that changes a file of the backup, and everything that is said of it."""

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
    """Return a function that changes the rows of a table."""

    def within(data: bytes) -> bytes:
        lines = [json.loads(line) for line in data.splitlines()]
        change(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return contents(f"{table}.ndjson", within)


def each(column: str, value: Any) -> Callable[[Lines], object]:
    """Return a change of a column in every row."""

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


DAMAGED = "is damaged, or not from fusery"
NONE = "has a value in line 1 that is none"

BACKUPS: Mapping[str, Case] = {
    "no JSON": Case(raw(b"{"), DAMAGED, RESTORE),
    "a list": Case(raw(b"[]"), DAMAGED, RESTORE),
    "a key twice": Case(
        raw(b'{"format": "fusery.backup.v1", "format": "x", "sha256": ""}'), DAMAGED, RESTORE
    ),
    "nested without end": Case(raw(b"[" * 500_000 + b"]" * 500_000), DAMAGED, RESTORE),
    "too large": Case(raw(b" " * (2 << 20)), "too large", RESTORE),
    "a number of 5000 digits": Case(raw(b'{"rows": ' + b"9" * 5000 + b"}"), DAMAGED, RESTORE),
    "a pipe": Case(
        _instead(lambda s: place(s) / "backup.json", lambda path, _: os.mkfifo(path)), "not a file", RESTORE
    ),
    "another form": Case(catalogue(lambda d: d.update(format="\x1b[2J")), "has the form", RESTORE),
    "a store whose id climbs": Case(catalogue(lambda d: d.update(store="../../x")), DAMAGED, RESTORE),
    "a store whose id is a list": Case(catalogue(lambda d: d.update(store=["x"])), DAMAGED, RESTORE),
    "a schema before the first": Case(catalogue(lambda d: d.update(schema="0000")), DAMAGED, RESTORE),
    "a schema of the future": Case(catalogue(lambda d: d.update(schema="9999")), "knows up to", RESTORE),
    "rows that are infinite": Case(catalogue(lambda d: d["files"][0].update(rows=10**39)), DAMAGED, RESTORE),
    "rows that are a text": Case(catalogue(lambda d: d["files"][0].update(rows="1")), DAMAGED, RESTORE),
    "sizes below nothing": Case(catalogue(lambda d: d["files"][0].update(size=-1)), DAMAGED, RESTORE),
    "a file of an exabyte": Case(
        catalogue(lambda d: d["files"][0].update(size=1 << 60)), "must be free", RESTORE
    ),
    "blobs without number": Case(catalogue(lambda d: d["blobs"].update(count=1 << 50)), DAMAGED, RESTORE),
    "a file whose name climbs": Case(
        catalogue(lambda d: d["files"][0].update(name="../x.ndjson")), DAMAGED, RESTORE
    ),
    "a file of no table": Case(
        catalogue(lambda d: d["files"][0].update(name="sqlite_master.ndjson")), "", RESTORE
    ),
    "a table that is missing": Case(catalogue(lambda d: d["files"].pop(0)), "is missing", RESTORE),
    "a column with SQL in it": Case(
        catalogue(lambda d: d["files"][0]["columns"].update({"x) SELECT 1; --": "text"})), DAMAGED, RESTORE
    ),
    "a digest that climbs": Case(
        catalogue(lambda d: d["files"][0].update(sha256="../" * 21 + "x")), DAMAGED, RESTORE
    ),
    "a file that is a pipe": Case(
        _instead(_first_file, lambda path, _: os.mkfifo(path)),
        "promised|not a regular|digest differs",
        RESTORE,
    ),
    "a file of a terabyte": Case(_instead(_first_file, _sparse), "are promised", RESTORE),
    "a file that is a link": Case(
        _instead(_first_file, lambda path, stage: path.symlink_to(stage.home / "fusery.db")),
        "promised|differs|symbolic",
        RESTORE,
    ),
    "blobs elsewhere": Case(_linked, "leads elsewhere", RESTORE),
    "no lines but bytes": Case(
        contents("task.ndjson", lambda _: bytes(1000) + b"\n"), "is not JSON", RESTORE
    ),
    "a line of 100 MB": Case(
        contents("task.ndjson", lambda _: b'{"id": 1, "name": "' + b"x" * 100_000_000 + b'"}\n'),
        "is not JSON",
        RESTORE,
    ),
    "a line that is nested": Case(
        contents("task.ndjson", lambda _: b"[" * 100_000 + b"\n"), "is not JSON", RESTORE
    ),
    "a line of numbers": Case(
        contents("task.ndjson", lambda _: b"[" + b"1," * 2_100_000 + b"1]\n"), "is not JSON", RESTORE
    ),
    "a file that climbs": Case(rows("manifest_file", each("path", "../../.bashrc")), NONE, RESTORE),
    "a file with an escape": Case(rows("manifest_file", each("path", "a\x1b[2J")), NONE, RESTORE),
    "an absolute file": Case(rows("manifest_file", each("path", "/etc/passwd")), NONE, RESTORE),
    "a task that climbs": Case(rows("task", each("name", "..")), NONE, RESTORE),
    "an adapter that climbs": Case(rows("adapter", each("name", "../x")), NONE, RESTORE),
    "a base that climbs": Case(rows("base_name", each("name", "../../x")), NONE, RESTORE),
    "a base with NUL": Case(rows("base_name", each("name", "a\x00")), NONE, RESTORE),
    "a moment before all time": Case(
        rows("base_model", each("created_at", "0001-01-01T00:00:00+23:59")), NONE, RESTORE
    ),
    "a moment without a zone": Case(
        rows("base_model", each("created_at", "2026-01-01T00:00:00")), NONE, RESTORE
    ),
    "a number too wide": Case(rows("manifest", each("size", 1 << 70)), NONE, RESTORE),
    "a generation without end": Case(rows("blob", each("generation", 1 << 60)), NONE, RESTORE),
    "a blob that is nothing": Case(rows("blob", each("generation", None)), NONE, RESTORE),
    "a blob's size below nothing": Case(rows("blob", each("size", -5)), "does not take", RESTORE),
    "a blob without a row": Case(rows("blob", lambda lines: lines.pop()), "no row", RESTORE),
    "rows twice": Case(rows("task", lambda lines: lines.append(dict(lines[0]))), "does not take", RESTORE),
    "an adapter of no task": Case(
        rows("adapter", each("task_id", 99)), "pointing at nothing|does not take", RESTORE
    ),
    "a method that there is none of": Case(rows("adapter", each("method", "x")), "does not take", RESTORE),
    "a log that was changed": Case(rows("event", each("actor", "somebody")), "breaks the chain", RESTORE),
    "a log without its end": Case(rows("event", lambda lines: lines.pop()), "does not end", RESTORE),
    "other files of a digest": Case(rows("manifest_file", each("size", 7)), "other files", RESTORE),
    "blobs of an exabyte": Case(lambda stage: _exabyte(stage), "must be free|bytes", RESTORE),
    "blobs that nobody refers to": Case(
        rows("manifest_file", each("blob", None)), "does not name the blobs", RESTORE
    ),
}


def _exabyte(stage: Stage) -> None:
    rows("blobs", each("size", 1 << 58))(stage)

    def total(document: Document) -> None:
        document["blobs"]["bytes"] = document["blobs"]["count"] * (1 << 58)

    catalogue(total)(stage)
