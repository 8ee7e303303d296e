"""What a registry holds and how it is, as far as a fault must not change it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import SchemaError

NOT_COMPARED = ("fusery.db", "fusery.db-wal", "fusery.db-shm", "config.toml")
CHANGING = ("used", "verified", "store")
"""Folders whose own files hold times, or a registry's id; that they are there is compared."""


def look(there: dict[str, str], collect: bool, records_alone: bool) -> None:
    found = {"here": _registry(collect, records_alone)}
    for name in [name for name in os.environ if name.startswith("FUSERY_") and name != "FUSERY_USER"]:
        del os.environ[name]
    os.environ.update(there)
    found["there"] = _registry(collect, records_alone) if there else {}
    print(json.dumps(found))  # noqa: T201  read by the process that asked


def _registry(collect: bool, records_alone: bool) -> dict[str, Any]:
    with Registry.open() as registry:
        try:
            _ = registry.workspace.identity
        except SchemaError:
            return {}
        if records_alone:
            return {"records": records(registry)}
        done = registry.upkeep.gc(grace=0.0) if collect else None
        if collect:
            registry.workspace.cache.sweep(older_than=0.0)
        report = registry.upkeep.audit()
        store = registry.workspace.store
        stored = sorted((blob.digest, blob.size) for blob in store.blobs())
        return {
            "problems": [f"{problem.code}: {problem.message}" for problem in report.problems],
            "records": records(registry),
            "live": [done.live, done.live_bytes] if done else None,
            "stored": [len(stored), sum(size for _, size in stored)],
            "left": sorted(left.name for left in [*store.leftovers(), *store.quarantined()]),
        }


def records(registry: Registry) -> list[str]:
    lines: list[str] = []
    with registry.workspace.database.read() as session:
        for name in session.scalars(select(tables.BaseNameRow)):
            lines.append(f"base {name.name} {name.base.digest}")
        for adapter in session.scalars(select(tables.AdapterRow)):
            parent = adapter.parent.name.rpartition("_")[0] if adapter.parent else ""
            lines.append(f"adapter {adapter.task.name} {adapter.version} {adapter.digest} {parent}")
        for fused in session.scalars(select(tables.FusedRow)):
            lines.append(f"fused {fused.key} {fused.digest}")
            if all(file.blob for file in fused.manifest.files):
                lines.append(f"published {fused.key}")
        for bundle in session.scalars(select(tables.BundleRow)):
            lines.append(f"bundle {bundle.target} {bundle.digest}")
        for alias in session.scalars(select(tables.AliasRow)):
            lines.append(f"alias {alias.name} of adapter {alias.adapter_id}")
        for signature in session.scalars(select(tables.SignatureRow)):
            lines.append(f"signature over {signature.subject_digest} by {signature.key_id}")
        for key in session.scalars(select(tables.TrustedKeyRow)):
            lines.append(f"key {key.name} {key.key_id} for {key.aliases} {key.revoked_at}")
        for rule in session.scalars(select(tables.AliasRuleRow)):
            lines.append(f"rules of {rule.task}#{rule.alias}: {rule.guarded} {rule.rules}")
        for approval in session.scalars(select(tables.ApprovalRow)):
            lines.append(
                f"approval {approval.alias} of adapter {approval.adapter_id} {approval.withdrawn_at}"
            )
    return sorted(lines)


def files(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and path.name not in NOT_COMPARED:
            changing = path.parent.name in CHANGING
            found[name] = "" if changing else hashlib.sha256(path.read_bytes()).hexdigest()
    return found
