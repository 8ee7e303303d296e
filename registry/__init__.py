"""What exists and how it relates.  The names below are the Python API; paths of modules are not promised.

`__init__.pyi` has them once more, for type checkers and editors.
"""

from __future__ import annotations

from typing import Any

_ROOMS = {
    ".adapters": "Finding",
    ".admission.code": "AdmissionError",
    ".api.registry": "Registry",
    ".bundles.source": "Choices",
    ".records.event": "Event",
    ".errors": "AlreadyExistsError BadInputError CheckFailedError InvalidTokenError MissingExtraError SchemaError "
    "UnknownReferenceError WhereError",
    ".fusion.request": "FuseRequest",
    ".record": "Record",
    ".recording.callback": "RecordRun",
    ".recording.trainer_callback": "FuseryCallback",
    ".records.adapter": "Adapter",
    ".records.adapter_details": "AdapterDetails",
    ".records.release": "Alias Deployment",
    ".records.fused": "Base Fused",
    ".records.trust": "Identity NewToken Token",
    "fusery.storage.errors": "FuseryError",
    "fusery.storage.progress": "Reporter",
}
_PLACES = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(_PLACES)  # noqa: PLE0605 -- a list, which the stub says name by name


def __getattr__(name: str) -> Any:
    # Importing a sub-module must not cost what `Registry` costs.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name], __name__), name)
