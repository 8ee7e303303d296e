"""A registry with rows in every table there is, made by its own commands as far as there are any."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tiny_models
from run_folders import plain_log
from sqlalchemy import insert, select

from fusery.registry import Registry, tables
from fusery.registry.database import sealing
from fusery.registry.dsse import make_pair
from fusery.registry.exchange.filling import all_tables
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.tables.record import kind_of

_LATER = {
    ("trusted_key", "fused"),
    ("approval", "authenticated"),
    ("deployment", "via"),
    ("calibration", "adapter"),
}
"""Columns that came after there were seals: null here, so that backups of older revisions can be made of these rows."""

_CHOSEN = {
    "form": "peft", "chosen": "best", "state": "finished", "source": "log",
    **dict.fromkeys(("method", "severity", "precision", "verdict"), "warning"),
}  # fmt: skip
_MADE_UP: dict[str, Any] = {
    "moment": datetime(2026, 1, 15, 12, 30, 59, 123456, UTC),
    "boolean": True,
    "integer": 7,
    "number": 0.1 + 0.2,
    "document": {"b": [1, 2.5, None, "ä\u2028"], "a": {"deep": 1e-05}},
}


def fill(registry: Registry, tiny_base: Path, folder: Path) -> Registry:
    """Do everything that can be done, and make up a row for tables that no command has filled."""
    registry.bases.add(tiny_base, name="tiny")
    for number in (1, 2):
        adapter = tiny_models.make_adapter(folder / f"adapter{number}", tiny_base, seed=number)
        # A curve that ends with another loss than is said: a run on record, and a finding.
        (adapter / "train.log").write_text(plain_log({1: 2.0, 100: 1.0}, {50: 1.5}))
        registry.adapters.register(
            adapter,
            base="tiny",
            task="course_rec",
            date=f"2026011{number}",
            val_loss=0.5 / number,
            dataset="courses",
            examples=120,
            tags={"team": "search"},
            note="Ünïcode \u2028 and 'quotes'",
            parent="course_rec@1" if number == 2 else None,
        )
    registry.aliases.set("prod", "course_rec@1", reason="first")
    registry.aliases.set("prod", "course_rec@2", reason="better")
    registry.fused.fuse("course_rec@2", FuseRequest(extras=(("course_rec@1", 0.5),)))
    registry.adapters.yank("course_rec@1", reason="worse")
    registry.bundles.materialize("course_rec@2", folder / "bundle")
    registry.exchange.export("course_rec@2", folder / "exported", form="peft")
    registry.adapters.amend("course_rec@2", examples=121, tags={"team": "ads"}, reason="typo")
    registry.adapters.shrink("course_rec@2", rank=4, task="smaller")
    registry.evaluations.record(
        "course_rec@2", {"courses.acc": 0.75}, dataset="courses", split="test", seed=1
    )
    registry.evaluations.record("course_rec@2", {"f1": 0.5})
    registry.evaluations.withdraw("course_rec@2", "f1", reason="of another adapter")
    registry.aliases.set_rules("release", {"admission": "no_errors"})
    registry.trust.add_key("ann", make_pair(folder / "ann.pem", None).public_key, ["*#canary"])
    registry.tokens.create("ann", "reader")
    registry.webhooks.add("https://hooks.example.org/fusery", "alias.moved", tasks="course_*", name="ci")
    with registry.workspace.database.write() as session:
        for table in all_tables():
            if session.execute(select(table).limit(1)).first() is None:
                _insert(session, table)
    return registry


def _insert(session: Any, table: Any) -> None:
    row = _row(session, table)
    session.execute(insert(table).values(row))
    if table.name in sealing.OWNERS:
        kind, column = sealing.OWNERS[table.name]
        sealing.touch(session, kind.name, [row[column]])


def _row(session: Any, table: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in table.columns:
        keys = list(column.foreign_keys)
        if (table.name, column.name) in _LATER:
            row[column.name] = None
        elif keys:
            row[column.name] = session.scalar(select(keys[0].column).limit(1))
        elif column.name in _CHOSEN:
            row[column.name] = _CHOSEN[column.name]
        else:
            kind = kind_of(column)
            length = getattr(column.type, "length", None) or 20
            row[column.name] = ("ab" * 32)[:length] if kind == "text" else _MADE_UP[kind]
    if "manifest_id" in row and "digest" in row:
        manifest = tables.ManifestRow
        row["digest"] = session.scalar(select(manifest.digest).where(manifest.id == row["manifest_id"]))
    return row


def used(registry: Registry) -> dict[str, bool]:
    with registry.workspace.database.read() as session:
        return {
            table.name: session.execute(select(table).limit(1)).first() is not None
            for table in tables.metadata.sorted_tables
        }
