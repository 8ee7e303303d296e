"""One adapter in full, as it is now or was at a moment."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from .. import tables
from ..records.renderings import own_form
from ..records.views import adapter_view, files_view


def full_view(session: Session, adapter: tables.Adapter) -> dict[str, Any]:
    """Return an adapter as `list` has it, with sizes, files and training."""
    from ..training.facts import training_view

    return {
        **adapter_view(session, adapter),
        "reduction_factor": round(adapter.total_parameters / max(1, adapter.trainable_parameters), 2),
        "bytes": adapter.manifest.size,
        "base_bytes": adapter.base.bytes,
        "files": files_view(adapter.manifest),
        "format": own_form(adapter),
        "training": adapter.training,
        **training_view(session, adapter),
    }
