"""The schema: every table as a typed class; docs/internals/data-model.md says what the rows mean and what may change.

A module is imported when one of its tables is asked for, since SQLAlchemy takes a third as long to map all of them as to be
imported itself; `metadata` has all.  So no module of a table postpones its annotations: SQLAlchemy would evaluate each.
`__init__.pyi` has the names once more, for type checkers and editors.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.interfaces import EXT_SKIP

from .record import TableRow

_MODULES = {
    "adapters": "AdapterRow AdapterFindingRow AdapterRenderingRow AdapterSketchRow AdapterSourceRow AdapterTagRow AliasRow "
    "AliasMoveRow AmendmentRow CurvePointRow DatasetRow EvaluationRow TaskRow TrainingRunRow YankRow",
    "bases": "BaseModelRow BaseNameRow BaseRevisionRow BlobRow CalibrationRow IntentRow LeaseRow ManifestRow "
    "ManifestFileRow SignatureRow TensorRow TrustedKeyRow",
    "fused": "BundleRow BundleAdapterRow FusedRow FusedExtraRow ModuleFidelityRow",
    "trail": "EventRow RegistryRow WebhookRow WebhookDeliveryRow",
    "trust": "AliasRuleRow ApprovalRow DeploymentRow TokenRow",
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted([*_PLACES, "TableRow", "metadata"])  # noqa: PLE0605 -- a list, which the stub says name by name


def __getattr__(name: str) -> Any:
    if name == "metadata":
        # Whoever goes through all tables gets all of them, whatever was asked for before.
        for module in _MODULES:
            import_module(f".{module}", __name__)
        attribute: Any = TableRow.metadata
    elif name in _PLACES:
        attribute = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = attribute
    return attribute


@event.listens_for(TableRow, "before_mapper_configured", retval=True, propagate=True)
def _whole(_mapper: Mapper[Any], kind: type) -> Any:
    """Leave a table alone while its module is being imported, by another thread: related tables may not be there yet."""
    module = sys.modules[kind.__module__]
    names = _MODULES.get(kind.__module__.rpartition(".")[2], "").split()
    return None if all(hasattr(module, name) for name in names) else EXT_SKIP
