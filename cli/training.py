"""How a training run is shown: its curve as a line of blocks, which checkpoint was taken, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .session import Session
from .text import cell, number

if TYPE_CHECKING:
    from fusery.registry.records.adapter_details import AdapterDetails
    from fusery.registry.records.run import TrainingRun


def print_training(session: Session, view: AdapterDetails) -> None:
    """Print what `show` knows about an adapter's run; nothing where nothing is known."""
    from fusery.registry.training.facts import curve_line

    run = view.training_run
    if run is None:
        return
    rows = [("curve", curve_line(view.curve)), ("checkpoint", _checkpoint(run)), ("run", _run(run))]
    if view.dataset_digest:
        rows.append(("dataset digest", view.dataset_digest))
    if run.git:
        changed = ", with changes" if run.git.dirty else ""
        rows.append(("git commit", f"{cell(run['git']['commit'])}{changed}"))
    if run.machine:
        rows.append(("machine", _machine(run.machine)))
    if run.versions:
        versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
        rows.append(("versions", cell(versions)))
    session.print("training")
    session.facts([(f"  {label}", value) for label, value in rows if value])


def _checkpoint(run: TrainingRun) -> str:
    """Return which weights these are, beside the best and the last of the run."""
    best, last = run.best, run.last
    parts = [f"{cell(run.checkpoint)} ({run.chosen})"]
    if best is not None:
        parts.append(f"best {best.iteration} with validation loss {number(best.val_loss)}")
    if last.iteration is not None:
        loss = f" with {number(last.val_loss)}" if last.val_loss is not None else ""
        parts.append(f"last {last.iteration}{loss}")
    return "; ".join(parts)


def _run(run: TrainingRun) -> str:
    parts = [run.state if run.state != "unknown" else "its end is not on record"]
    if run.started_at:
        parts.append(f"began {run.started_at.isoformat(timespec='seconds')}")
    if run.seconds is not None:
        parts.append(f"{run.seconds:,.1f} s")
    if run.trained_tokens is not None:
        parts.append(f"{plural(run.trained_tokens, 'token')}")
    if run.peak_memory is not None:
        parts.append(f"peak memory {size(run['peak_memory'])}")
    return ", ".join(parts)


def _machine(machine: Mapping[str, Any]) -> str:
    memory = size(machine["memory"]) if machine["memory"] is not None else None
    cpus = plural(machine["cpus"], "core") if machine["cpus"] is not None else None
    known = (machine["processor"], cpus, memory, machine["platform"])
    return cell(", ".join(str(part) for part in known if part))
