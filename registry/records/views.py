"""Records as plain JSON values: the keys of `--json` (docs/internals/json.md), the same for the command line and the Python API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..names import compact_date
from .amendments import amendment_views
from .withdrawals import Withdrawals, of_adapters, own, shown


def moment(value: datetime) -> str:
    """Return a moment as ISO 8601 in UTC with its offset."""
    return value.isoformat(timespec="seconds")


def base_view(base: tables.BaseModel) -> dict[str, Any]:
    """Return a base model as `base add` and `base show` print it."""
    return {
        "name": base.names[0].name,
        "names": [name.name for name in base.names],
        "digest": base.digest,
        "content": base.content,
        "architecture": base.architecture,
        "model_type": base.model_type,
        "parameters": base.parameters,
        "dtype": base.dtype,
        "quantization": base.quantization,
        "bytes": base.bytes,
        "reference": base.location,
        "sources": [
            {"source": revision.source, "revision": revision.revision or None} for revision in base.revisions
        ],
        "created_at": moment(base.created_at),
        "created_by": base.created_by,
        "calibrations": [calibration_view(calibration) for calibration in base.calibrations],
        "files": files_view(base.manifest),
    }


def calibration_view(calibration: tables.Calibration) -> dict[str, Any]:
    """Return a calibration as `base show` lists it."""
    return {
        "digest": calibration.digest,
        "prompts": calibration.prompts,
        "tokens": calibration.tokens,
        "created_at": moment(calibration.created_at),
    }


def files_view(manifest: tables.Manifest) -> list[dict[str, Any]]:
    """Return the files of a manifest: path, size in bytes, digest."""
    return [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files]


def adapter_views(session: Session, adapters: Sequence[tables.Adapter]) -> list[dict[str, Any]]:
    """Return adapters as `list` and `show` print them; the number of queries does not depend on how many they are."""
    ids = [adapter.id for adapter in adapters]
    aliases: dict[int, list[str]] = defaultdict(list)
    for alias in session.scalars(
        select(tables.Alias).where(tables.Alias.adapter_id.in_(ids)).order_by(tables.Alias.name)
    ):
        aliases[alias.adapter_id or 0].append(alias.name)
    told = of_adapters(session, ids)
    return [_adapter_view(adapter, aliases[adapter.id], told.get(adapter.id, ())) for adapter in adapters]


def adapter_view(session: Session, adapter: tables.Adapter) -> dict[str, Any]:
    """Return one adapter as `register` prints it."""
    return adapter_views(session, [adapter])[0]


def _adapter_view(adapter: tables.Adapter, aliases: list[str], told: Withdrawals) -> dict[str, Any]:
    dataset = adapter.dataset
    return {
        "name": adapter.name,
        "task": adapter.task.name,
        "version": adapter.version,
        "date": compact_date(adapter.date),
        "base": adapter.base.names[0].name,
        "trained_on": adapter.trained_on_name,
        "trained_on_digest": adapter.trained_on,
        "digest": adapter.digest,
        "method": adapter.method,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "scale": adapter.scale,
        "layers": adapter.layers,
        "target_modules": adapter.target_modules,
        "trainable_parameters": adapter.trainable_parameters,
        "total_parameters": adapter.total_parameters,
        "trainable_percent": round(100 * adapter.trainable_parameters / adapter.total_parameters, 6),
        "val_loss": adapter.val_loss,
        "iterations": adapter.iterations,
        "dataset": dataset.name if dataset else None,
        "dataset_revision": (dataset.revision or None) if dataset else None,
        "dataset_digest": (dataset.digest or None) if dataset else None,
        "examples": adapter.examples,
        "parent": adapter.parent.name if adapter.parent else None,
        "aliases": aliases,
        "tags": {tag.key: tag.value for tag in adapter.tags},
        "note": adapter.note,
        "amendments": amendment_views(adapter.amendments),
        "yanked": own(told) is not None,
        "withdrawals": shown(told),
        "created_at": moment(adapter.created_at),
        "created_by": adapter.created_by,
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "subject": finding.subject,
                "message": finding.message,
                "hint": finding.hint,
            }
            for finding in adapter.findings
        ],
    }


def trained_on_view(adapter: tables.Adapter) -> dict[str, Any] | None:
    """Return name and digest of the base that it was said to be trained on; None where that is its own."""
    return (
        None
        if adapter.trained_on is None
        else {"name": adapter.trained_on_name, "digest": adapter.trained_on}
    )
