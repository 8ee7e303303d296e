"""`fusery register`: folders, several at once, and the runs of a tracker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.api.adapters import Adapters

from .adapters import FACTS, FOLDER_OR_URL, declared_options, print_registered
from .check import check_folders
from .command import command
from .options import TAGS
from .session import Session
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.exchange.import_runs import ImportedRun
    from fusery.registry.records.adapter import Registered


@command(
    "register",
    Adapters.register,
    rare="strict version date alpha examples checkpoint log parent experiments runs metrics",
    document="records.adapter:Registered | [records.adapter:Registered] | [exchange.import_runs:ImportedRun]"
    " | admission.code:Checked | [admission.code:CheckedFolder]",
    sources=("SOURCE...", FOLDER_OR_URL),
    **FACTS,
    **declared_options(["parent"]),
    tags=TAGS,
    **declared_options(["note"]),
    experiments="--experiment NAME...: Only runs of this experiment of a tracker; repeatable.",
    runs="--run ID...: Only this run of a tracker; repeatable.",
    metrics="--metric GLOB...: Record these metrics of a tracker's runs as evaluations; repeatable.",
    dry_run=": Only show the findings, or a tracker's adapters.",
    without=("folder",),
)
def register(
    session: Session, sources: tuple[str | Path, ...], *, dry_run: bool = False, **options: Any
) -> int:
    """Register adapters from folders, runs, hubs or trackers.

    SOURCE is the folder of an mlx-lm or PEFT adapter, a folder that `fusery get` wrote, or a training run. Runs of
    mlx_lm.lora, transformers' Trainer, TRL, Axolotl, LLaMA-Factory and Unsloth register their best checkpoint.

    SOURCE may also be a URL: hf://OWNER/NAME[@REVISION], s3://BUCKET/PATH, mlflow://RUN or wandb://ENTITY/PROJECT[/RUN].
    MLflow is the server in MLFLOW_TRACKING_URI, or the one in mlflow+URI, such as mlflow+sqlite:///FILE. Plugins add
    trackers as NAME://SOURCE.

    Examples:
      fusery base add mlx-community/SmolLM2-135M-Instruct
      fusery register adapters --base SmolLM2-135M-Instruct --task course_rec
      fusery register wandb://TEAM/PROJECT --dry-run
    """
    more = {name: options.pop(name) for name in ("experiments", "runs", "metrics")}
    trackers = {source: tracker_source for source in sources if (tracker_source := tracked(str(source)))}
    if trackers:
        if len(sources) > 1:
            raise click.UsageError("A tracker's runs are registered on their own: give one SOURCE.")
        facts = {name for name, value in options.items() if value and name not in ("base", "task")}
        if facts:
            raise click.UsageError(f"--{min(facts).replace('_', '-')} is for folders.")
        tracker, place, named = trackers[sources[0]]
        more |= {name: options[name] for name in ("base", "task")} | {"runs": (*named, *more["runs"])}
        if more["experiments"] and more["runs"]:
            raise click.UsageError("Choose experiments or runs, not both.")
        imported = session.registry.exchange.import_runs(
            place, tracker, dry_run=dry_run, **more, reporter=session.reporter()
        )
        names = [run.adapter for run in imported if run.adapter]
        session.emit(imported, names=names, human=lambda: _print_runs(session, imported))
        return int(any(run.error for run in imported))
    if any(more.values()):
        raise click.UsageError("--experiment, --run and --metric are for the runs of a tracker.")
    if dry_run:
        return check_folders(session, sources, len(sources) == 1, **options)
    done: list[Registered] = []
    for source in sources:
        if isinstance(source, Path) and is_exported(source):
            if any(value for name, value in options.items() if name != "base"):
                raise click.UsageError("A folder that fusery wrote has all facts in it: give --base alone.")
            done.append(session.registry.exchange.import_folder(source, base=options["base"]))
            continue
        with session.progress("sending") as bar:
            done.append(session.registry.adapters.register(source, **options, reporter=session.reporter(bar)))

    def human() -> None:
        for source, adapter in zip(sources, done, strict=True):
            print_registered(session, adapter, str(source) if len(done) > 1 else "")

    session.emit(done[0] if len(done) == 1 else done, names=[adapter.name for adapter in done], human=human)
    return 0


_FOLDERS = ("hf", "file", "s3", "gs", "gcs", "az", "abfs", "abfss", "sftp")
"""Schemes of folders elsewhere: no plugin is looked for."""


def tracked(source: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return the tracker, place and runs that a source names, as in `mlflow://RUN` or `mlflow+URI`; None for a folder."""
    scheme, mark, rest = source.partition("://")
    if not (mark or "+" in source) or scheme in _FOLDERS or Path(source).exists():
        return None
    from fusery.registry.exchange.import_runs import source_names

    name = next((name for name in source_names() if source.startswith((f"{name}+", f"{name}://"))), None)
    if name is None:
        return None
    if source.startswith(f"{name}+"):
        return name, source[len(name) + 1 :], ()
    if name == "mlflow":
        return name, os.environ.get("MLFLOW_TRACKING_URI", "mlruns"), (rest,) if rest else ()
    if name == "wandb" and rest.count("/") == 2:
        project, _, run = rest.rpartition("/")
        return name, project, (run,)
    return name, rest, ()


def is_exported(folder: Path) -> bool:
    """Tell whether `fusery get` wrote a folder, which then says so in its metadata."""
    from fusery.registry.adapters import METADATA
    from fusery.registry.documents import KEY
    from fusery.storage.errors import FuseryError
    from fusery.storage.jsonfile import read_object

    if not (folder / METADATA).is_file():
        return False
    try:
        return isinstance(read_object(folder / METADATA).get(KEY), dict)
    except (FuseryError, OSError):
        return False  # registering it says what is wrong


def _print_runs(session: Session, done: Sequence[ImportedRun]) -> None:
    free = ("experiment", "artifacts")
    table = session.table("run", "adapter", "is", *free, free=free)
    for run in done:
        state = "new" if run.created else "known" if run.adapter else "refused" if run.error else "there"
        table.add_row(cell(run.run_name), run.adapter or "-", state, cell(run.project), cell(run.path or "."))
    session.print_table(table)
    for run in done:
        if run.error:
            session.print(f"{cell(run.run_name)}: {cell(run.error)}")
            if run.hint:
                session.hint(cell(run.hint), "  ")
