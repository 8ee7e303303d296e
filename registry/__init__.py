"""What exists and how it relates: records, admission, fusion, diff, lineage, audit and bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.registry import Registry
    from .recording.callback import RecordRun

__all__ = ["RecordRun", "Registry"]


def __getattr__(name: str) -> Any:
    # Importing a sub-module must not cost what `Registry` costs: pydantic-settings and what it brings.
    if name == "Registry":
        from .api.registry import Registry

        return Registry
    if name == "RecordRun":
        from .recording.callback import RecordRun

        return RecordRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
