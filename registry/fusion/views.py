"""A fused artifact as JSON."""

from __future__ import annotations

from typing import Any

from .. import tables
from ..records.views import files_view, moment


def weights_bytes(manifest: tables.Manifest) -> int:
    """Return the bytes of a model's weight files."""
    return sum(file.size for file in manifest.files if file.path.endswith(".safetensors"))


def fused_line(fused: tables.Fused, adapter: str | None = None) -> dict[str, Any]:
    """Return a fused artifact as `show` lists it: label, size, fidelity, and the command that makes it again.

    Args:
        fused: the record.
        adapter: the name to call its adapter by; the same bytes may be registered under several.
    """
    from ..records.fused_label import label_view
    from .foreign import foreign_view

    size, name = weights_bytes(fused.manifest), adapter or fused.adapter.name
    times = size / max(1, weights_bytes(fused.base.manifest))
    extras = [(extra.adapter.name, extra.weight) for extra in fused.extras]
    return {
        "key": fused.key,
        "digest": fused.digest,
        "adapter": name,
        **label_view(fused, name),
        "with": [{"adapter": extra, "weight": weight} for extra, weight in extras],
        "precision": fused.precision,
        "quantization": fused.quantization,
        "bytes": fused.bytes,
        "weights_bytes": size,
        "times_base": round(times, 4),
        "engine": fused.engine,
        "foreign": foreign_view(fused),
        "fidelity": {
            "verdict": fused.verdict,
            "retained": fused.retained,
            "cosine": fused.cosine,
            "relative_error": fused.relative_error,
            "noise": fused.noise,
        },
        "rebuild": _rebuild(fused, name),
        "created_at": moment(fused.created_at),
        "created_by": fused.created_by,
    }


def _rebuild(fused: tables.Fused, adapter: str) -> str:
    """Return the command that makes it again, wherever it is on record."""
    accepted = " --accept-loss" if fused.verdict == "LOST" else ""
    return f"fusery fuse {adapter} --recipe {fused.key}{accepted}"


def module_view(module: tables.ModuleFidelity) -> dict[str, Any]:
    """Return what one module retained."""
    return {
        "module": module.module,
        "norm": module.norm,
        "retained": module.retained,
        "cosine": module.cosine,
        "relative_error": module.relative_error,
    }


def fused_view(fused: tables.Fused, adapter: str | None = None) -> dict[str, Any]:
    """Return a fused artifact as `fuse` prints it, without the keys that only the command knows (`path`, `cached`).

    Args:
        fused: the record.
        adapter: the name to call its adapter by, as for `fused_line`.
    """
    from ..records.fused_label import label_view
    from .foreign import foreign_view

    name = adapter or fused.adapter.name
    return {
        "key": fused.key,
        "digest": fused.digest,
        "foreign": foreign_view(fused),
        "adapter": name,
        **label_view(fused, name),
        "with": [{"adapter": extra.adapter.name, "weight": extra.weight} for extra in fused.extras],
        "base": fused.base.name,
        "precision": fused.precision,
        "quantization": fused.quantization,
        "bytes": fused.bytes,
        "weights_bytes": weights_bytes(fused.manifest),
        "seconds": round(fused.seconds, 3),
        "engine": fused.engine,
        "recipe": fused.recipe,
        "fidelity": {
            "verdict": fused.verdict,
            "retained": fused.retained,
            "cosine": fused.cosine,
            "relative_error": fused.relative_error,
            "noise": fused.noise,
            "modules": [module_view(module) for module in fused.modules],
        },
        "created_at": moment(fused.created_at),
        "created_by": fused.created_by,
        "files": files_view(fused.manifest),
    }
