"""What exists and how it relates.  The names below are the Python API; paths of modules are not promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusery.storage.errors import FuseryError

    from .adapters.finding import Finding
    from .admission.refusal import AdmissionError
    from .api.registry import Registry
    from .api.resource import Reporter
    from .bundles.choices import Choices
    from .errors import (
        AlreadyExistsError,
        BadInputError,
        CheckFailedError,
        MissingExtraError,
        UnknownReferenceError,
    )
    from .fusion.request import FuseRequest
    from .recording.callback import RecordRun

_PLACES = {
    "AdmissionError": ".admission.refusal",
    "AlreadyExistsError": ".errors",
    "BadInputError": ".errors",
    "CheckFailedError": ".errors",
    "Choices": ".bundles.choices",
    "Finding": ".adapters.finding",
    "FuseRequest": ".fusion.request",
    "FuseryError": "fusery.storage.errors",
    "MissingExtraError": ".errors",
    "RecordRun": ".recording.callback",
    "Registry": ".api.registry",
    "Reporter": ".api.resource",
    "UnknownReferenceError": ".errors",
}

__all__ = [
    "AdmissionError", "AlreadyExistsError", "BadInputError", "CheckFailedError", "Choices", "Finding", "FuseRequest",
    "FuseryError", "MissingExtraError", "RecordRun", "Registry", "Reporter", "UnknownReferenceError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Importing a sub-module must not cost what `Registry` costs: pydantic-settings and what it brings.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name], __name__), name)
