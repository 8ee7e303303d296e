"""`fusery base`: the models that adapters are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusery.registry.api.fused import Bases
from fusery.registry.charts.text import size
from fusery.registry.parsing import plural
from fusery.storage.errors import typed

from .columns import record_facts
from .command import listing, prints
from .session import Session
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.records.calibrations import CalibrationReport
    from fusery.registry.records.fused import AddedBase, Base, BaseDetails


@prints(
    "base add",
    Bases.add,
    progress=lambda options: "reading" if options["reference"] else "copying",
    source=("SOURCE", str),
    revision="REV",
)
def add(session: Session, added: AddedBase) -> None:
    """Add a base model.

    SOURCE is a folder in MLX or Hugging Face layout, a GGUF file, or a hub id such as org/name.

    Example: fusery base add org/name --revision COMMIT
    """
    session.print(f"{'Added' if added.created else 'Already there'}: {added.name}")
    if added.same_as is not None:
        called = cell(added.names[-1])
        session.print(f"The same model in other files: {called} is a further name of {added.same_as}.")
    _facts(session, added)
    session.findings(added.findings)
    session.say(f"Next: fusery register FOLDER --base {typed(added.name)} --task T")


listing(
    "base list",
    Bases.list,
    "List base models.",
    "name model_type parameters bytes dtype quantization created_at:age created_by digest",
    cells={"quantization": lambda base: str((base.quantization or {}).get("bits", "-"))},
)


@prints("base show", Bases.show, without=("limit",))
def show(session: Session, view: BaseDetails) -> None:
    """Show a base model, its calibrations and its adapters."""
    _facts(session, view)
    for made in view["calibrations"]:
        adapter = f", for the adapter {made['adapter'][:12]}" if made["adapter"] else ""
        tokens = plural(made["tokens"], "token")
        session.print(f"  calibrated {made['digest'][:12]} on {cell(made['prompts'])}, {tokens}{adapter}")
    session.files(view["files"])


_LAYOUT = "names, digest, content, architecture, parameters, dtype, quantization, bytes, sources, reference, adapters"


def _facts(session: Session, view: Base) -> None:
    from fusery.registry.records.fused import BaseDetails

    sources = (row["source"] + (f"@{row['revision']}" if row["revision"] else "") for row in view["sources"])
    instead = {
        "quantization": _quantization(view["quantization"]),
        "bytes": f"{size(view['bytes'])} in {plural(len(view['files']), 'file')}",
        "sources": ", ".join(sources) or "-",
    }
    session.facts(record_facts(BaseDetails, _LAYOUT, view, **instead))


def _quantization(value: Mapping[str, object] | None) -> str:
    if not value:
        return "none"
    own = sum(isinstance(item, dict) for item in value.values())
    text = f"{value.get('mode', 'affine')} {value.get('bits')} bits, group {value.get('group_size')}"
    return text + (f", {plural(own, 'module')} with other settings" if own else "")


@prints(
    "base calibrate",
    Bases.calibrate,
    names="digest",
    counting=lambda options: "steps" if options["adapter"] else "reading",
    adapter="REF",
    verbose="Show the digest, rank and errors of the calibration.",
)
def calibrate(session: Session, report: CalibrationReport) -> None:
    """Calibrate a base model for better rounding.

    The base model reads the prompts once; dither and mixed then round better. Use prompts like those of your task; a few
    thousand tokens are enough. With --adapter, also learn the scales of that adapter's fused model, from a hundred
    thousand tokens.

    Example: fusery base calibrate BASE --adapter course_rec@latest
    """
    from fusery.registry.records.calibrations import CalibrationReport

    session.print(f"{'Calibrated' if report.created else 'Already there'}: {cell(report.base)}")
    layout = "prompts tokens, adapter"
    if session.verbose:
        layout += ", digest, rank, bytes, engine, after before"
    session.facts(record_facts(CalibrationReport, layout, report))
    session.print("From now on, dither and mixed round by it.")
    session.say("Next: fusery fuse REF")
