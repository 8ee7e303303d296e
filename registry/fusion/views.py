"""How rows become the records of fused models."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import object_session

from .. import tables
from ..record import row_values
from ..records.fused import (
    Fidelity,
    FusedDetails,
    FusedFacts,
    FusedLine,
    FusedRecord,
    ModuleFidelity,
    Weighted,
)
from ..records.views import entries
from ..records.withdrawal import Withdrawals
from ..records.withdrawals import of_fused


def weights_bytes(manifest: tables.Manifest) -> int:
    """Return the bytes of a model's weight files."""
    return sum(file.size for file in manifest.files if file.path.endswith(".safetensors"))


def fused_line(
    fused: tables.Fused, adapter: str | None = None, *, withdrawals: Withdrawals | None = None
) -> FusedLine:
    """Return a fused artifact as `show` lists it: label, size, fidelity, and the command that makes it again.

    Args:
        fused: its row.
        adapter: the name to call its adapter by; the same bytes may be registered under several.
        withdrawals: what it has to do with yanks, where that is to be said.
    """
    return FusedLine(**line_facts(fused, adapter), withdrawals=withdrawals)


def line_of(fused: tables.Fused, adapter: tables.Adapter, *, withdrawals: Withdrawals) -> FusedLine:
    """Return the line of a fused artifact among those of one of its adapters, called by that one's name if the bytes are its."""
    name = adapter.name if fused.adapter.digest == adapter.digest else fused.adapter.name
    return fused_line(fused, name, withdrawals=withdrawals)


def fused_details(fused: tables.Fused, adapter: str) -> FusedDetails:
    """Return the same with the fidelity of each module."""
    from ..charts.heat_map import natural

    facts = line_facts(fused, adapter)
    modules = sorted(fused.modules, key=lambda module: natural(module.module))
    facts["fidelity"] = _fidelity(fused, modules)
    return FusedDetails(**facts, base=fused.base.name, withdrawals=_withdrawals(fused))


def fused_record(fused: tables.Fused, adapter: str | None = None, *, published: bool) -> FusedRecord:
    """Return the record of a fused artifact.

    Args:
        fused: its row.
        adapter: the name to call its adapter by, as for `fused_line`.
        published: its files are in the store.
    """
    return FusedRecord(
        **_facts(fused, adapter),
        base=fused.base.name,
        seconds=round(fused.seconds, 3),
        recipe=fused.recipe,
        fidelity=_fidelity(fused, fused.modules),
        files=entries(fused.manifest),
        published=published,
        withdrawals=_withdrawals(fused),
    )


def line_facts(fused: tables.Fused, adapter: str | None) -> dict[str, Any]:
    """Return the fields of a fused artifact's line; see `fused_line`."""
    facts = _facts(fused, adapter)
    accepted = " --accept-loss" if fused.verdict == "LOST" else ""
    return {
        **facts,
        "fidelity": _fidelity(fused, None),
        "rebuild": f"fusery fuse {facts['adapter']} --recipe {fused.key}{accepted}",
    }


def _facts(fused: tables.Fused, adapter: str | None) -> dict[str, Any]:
    """Return the fields that all records of a fused artifact have."""
    from ..records.fused_label import label_record
    from .foreign import foreign_record

    name, weights = adapter or fused.adapter.name, weights_bytes(fused.manifest)
    return {
        **row_values(FusedFacts, fused),
        "foreign": foreign_record(fused),
        "adapter": name,
        **label_record(fused, name),
        "with_": tuple(Weighted(adapter=extra.adapter.name, weight=extra.weight) for extra in fused.extras),
        "weights_bytes": weights,
        "times_base": round(weights / max(1, weights_bytes(fused.base.manifest)), 4),
    }


def _withdrawals(fused: tables.Fused) -> Withdrawals:
    session = object_session(fused)
    assert session is not None
    return of_fused(session, [fused.id]).get(fused.id, ())


def _fidelity(fused: tables.Fused, modules: list[tables.ModuleFidelity] | None) -> Fidelity:
    return Fidelity.from_row(
        fused, modules=None if modules is None else tuple(map(ModuleFidelity.from_row, modules))
    )
