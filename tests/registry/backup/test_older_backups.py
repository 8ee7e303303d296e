"""Backups that older versions of fusery made: restored at their revision of the schema, and brought up from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from full_registry import fill
from sqlalchemy import inspect
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.database import Database, schema
from fusery.storage.digest import digest_json
from fusery.storage.local import LocalStore

Columns = dict[str, dict[str, set[str]]]
OLDER = [f"{number:04}" for number in range(1, int(schema.HEAD))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[tuple[Registry, Path]]:
    """A registry with rows in every table that older versions had, and its backup by this one; neither is to be changed."""
    folder = tmp_path_factory.mktemp("full")
    with Registry(open_workspace(folder / "home")) as registry:
        registry.init()
        fill(registry, tiny_base, folder, amended=False)
        registry.upkeep.backup(folder / "backup")
        yield registry, folder / "backup"


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """The tables of each older revision with their columns, as the migrations make them one after the other."""
    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('revisions')}/fusery.db")
    known: Columns = {}
    for revision in OLDER:
        with database.schema_change() as connection:
            schema.move(connection, revision)
            found = inspect(connection).get_multi_columns()
            known[revision] = {
                name: {column["name"] for column in columns} for (_, name), columns in found.items()
            }
    database.close()
    return known


def as_made_at(revision: str, columns: Columns, backup: Path, folder: Path) -> Path:
    """Write the backup that the version of fusery with this revision would have made of the same registry."""
    known = columns[revision]
    older = Path(shutil.copytree(backup, folder / f"backup-{revision}"))
    store = LocalStore(older)
    document = json.loads((older / "backup.json").read_bytes())
    document.pop("sha256")
    kept = []
    for file in document["files"]:
        table = file["name"].removesuffix(".ndjson")
        if file["columns"] and table not in known:
            continue
        if file["columns"]:
            file["columns"] = {name: kind for name, kind in file["columns"].items() if name in known[table]}
            path = older / "blobs" / "sha256" / file["sha256"][:2] / file["sha256"]
            rows = [json.loads(line) for line in path.read_bytes().splitlines()]
            if table == "event" and "seals" not in known[table]:
                chain_without_seals(rows)
                document["last_event"] = {"seq": rows[-1]["seq"], "hash": rows[-1]["hash"]}
            lines = [json.dumps({name: row[name] for name in file["columns"]}) + "\n" for row in rows]
            blob = store.put_bytes("".join(lines).encode())
            file.update(sha256=blob.digest, size=blob.size)
        kept.append(file)
    document.update(schema=revision, files=kept)
    (older / "backup.json").write_text(json.dumps({**document, "sha256": digest_json(document)}))
    return older


def chain_without_seals(rows: list[dict[str, Any]]) -> None:
    """Give entries of the log the hashes that a version made which knew no seals."""
    previous = "0" * 64
    for row in rows:
        row["previous"] = previous
        previous = row["hash"] = digest_json(
            {key: value for key, value in row.items() if key not in ("hash", "seals")}
        )


@pytest.mark.parametrize(
    "revision", [OLDER[0], *(pytest.param(revision, marks=pytest.mark.slow) for revision in OLDER[1:])]
)
def test_a_backup_of_every_older_revision_is_restored(
    made: tuple[Registry, Path], columns: Columns, tmp_path: Path, revision: str
) -> None:
    registry, backup = made
    older = as_made_at(revision, columns, backup, tmp_path)
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        restored.upkeep.restore(older, own=True)
        assert schema.check(restored.workspace.database) == []
        assert [row["digest"] for row in restored.adapters.list()] == [
            row["digest"] for row in registry.adapters.list()
        ]
        assert restored.aliases.history("course_rec#prod") == registry.aliases.history("course_rec#prod")
        assert restored.upkeep.audit().problems == []
