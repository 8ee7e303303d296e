"""The source `folder`: runs that lie in folders, each with a `run.json` beside the adapter's files.

runs/first/run.json     {"name": "first", "project": "lessons", "started_at": "2026-01-15T10:00:00+00:00"}
runs/first/adapter/     adapters.safetensors, adapter_config.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.exchange.tracked_run import TrackedRun
from fusery.registry.registration.training_record import RunRecord

ABOUT = "run.json"


def folder_runs(
    source: str, /, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Yield the runs in a folder, oldest first.

    Args:
        source: the folder.
        experiments: projects to read; none for all.
        runs: names of folders, instead.
    """
    root = Path(source).expanduser()
    found = {path.parent.name: _read(path.parent) for path in sorted(root.glob(f"*/{ABOUT}"))}
    if not found:
        raise BadInputError(
            f"there is no run in {root}", hint=f"give a folder of folders with a {ABOUT} in each"
        )
    if missing := [name for name in runs if name not in found]:
        raise UnknownReferenceError(f"there is no run {missing[0][:60]!r} in {root}")
    chosen = [found[name] for name in runs] if runs else list(found.values())
    for run in sorted(chosen, key=lambda run: run.record.started_at):
        if not experiments or run.project in experiments:
            yield run


def _read(folder: Path) -> TrackedRun:
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        record = RunRecord.model_validate({"state": "finished", "started_at": about["started_at"]})
        name, project = str(about["name"]), str(about["project"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{folder / ABOUT} does not say name, project and started_at") from error
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != ABOUT
    }
    return TrackedRun(folder.name, name, project, record, {}, files, partial(_fetch, folder))


def _fetch(folder: Path, path: str, place: Path) -> None:
    shutil.copyfile(folder / path, place)
