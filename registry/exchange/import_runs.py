"""Importing the adapters that a tracker keeps: each is registered as its trainer left it, with what is known of its run."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fusery.storage.errors import FuseryError

from ..adapters.files import RUN_RECORD
from ..admission.submission import Submission
from ..errors import AlreadyExistsError, BadInputError
from ..evaluation.measured import Setting, record_evaluations
from ..names import parse_task
from ..record import Record
from ..records.evaluations import parse_metric
from ..records.references import resolve_base
from ..records.scratch import scratch_folder
from ..registration.register import register
from ..registration.sources import wanted
from ..training.record import write_record
from .tracked_run import TrackedAdapter, TrackedRun, tracked_adapters

if TYPE_CHECKING:
    from ..records.adapter import Registered
    from ..workspace import Workspace

_NOT_OF_A_TASK = re.compile(r"[^a-z0-9._-]+")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_OF_A_METRIC = re.compile(r"[^A-Za-z0-9_.:@-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRun(Record):
    """What became of an adapter among the files that a tracker keeps of a run.

    Attributes:
        run: the tracker's id of the run.
        run_name: what it is called there.
        project: what it belongs to: an experiment of MLflow, a project of W&B.
        path: of the adapter among the run's files; empty for all of them.
        adapter: its name here; None where it was refused, or is only looked at.
        created: it was not here before.
        metrics: names of those that were recorded as evaluations.
        error: why it was refused, or a metric of it.
        hint: what can be done then.
    """

    run: str
    run_name: str
    project: str
    path: str
    adapter: str | None
    created: bool
    metrics: tuple[str, ...]
    error: str | None
    hint: str | None
    REFERENCE: ClassVar[str] = "adapter"


def tracked_runs(
    tracker: str, source: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Return the runs that a tracker has, oldest first; see `mlflow_runs` and `wandb_runs`.

    Raises:
        BadInputError: an experiment was asked for of a tracker that has none.
    """
    if tracker == "mlflow":
        from .mlflow_runs import mlflow_runs

        return mlflow_runs(source, experiments=experiments, runs=runs)
    from .wandb_runs import wandb_runs

    if experiments:
        raise BadInputError(
            "W&B has no experiments", hint="the project says what is taken, and --run ID takes single runs"
        )
    return wandb_runs(source, runs=runs)


def import_runs(
    workspace: Workspace,
    runs: Iterable[TrackedRun],
    tracker: str,
    *,
    base: str | None = None,
    task: str | None = None,
    metrics: Sequence[str] = (),
    dry_run: bool = False,
) -> Iterator[ImportedRun]:
    """Register the adapters of runs, in the order of the runs; yield what became of each.

    A run's id and its project become tags.  One that is refused keeps no other out.

    Args:
        workspace: the registry's parts.
        runs: as the tracker has them.
        tracker: its name, for tags and evaluations.
        base: that they stand on; None for the one that the files of each name.
        task: what they are for; None for the name of the run's project.
        metrics: patterns such as `mmlu*`; what they match is recorded as evaluations.
        dry_run: only look what there is.

    Raises:
        BadInputError: the task is no name, or the tracker cannot be read.
    """
    if task is not None:
        parse_task(task)
    if base is not None:
        with workspace.database.read() as session:
            resolve_base(session, base)
    for run in runs:
        if run.problem is not None:
            yield _imported(run, TrackedAdapter(""), error=run.problem)
        for found in tracked_adapters(run):
            if dry_run:
                yield _imported(run, found)
                continue
            try:
                done = _register(workspace, run, found, tracker, base, task)
            except FuseryError as error:
                yield _imported(run, found, error=error)
                continue
            chosen, problem = _chosen(run.metrics, metrics)
            try:
                _record(workspace, done.name, chosen, tracker)
            except (BadInputError, AlreadyExistsError) as error:
                yield _imported(run, found, done, error=error)
                continue
            yield _imported(run, found, done, chosen, problem)


def _imported(
    run: TrackedRun,
    found: TrackedAdapter,
    done: Registered | None = None,
    metrics: Mapping[str, float] | None = None,
    error: FuseryError | None = None,
) -> ImportedRun:
    return ImportedRun(
        run=run.id,
        run_name=run.name,
        project=run.project,
        path=found.path,
        adapter=done.name if done else None,
        created=done.created if done else False,
        metrics=tuple(metrics or ()),
        error=error.message if error else None,
        hint=error.hint if error else None,
    )


def _register(
    workspace: Workspace,
    run: TrackedRun,
    found: TrackedAdapter,
    tracker: str,
    base: str | None,
    task: str | None,
) -> Registered:
    submission = Submission(
        base=base,
        task=task or _task(run.project),
        tags={f"{tracker}.run_id": run.id, f"{tracker}.project": run.project[:500]},
    )
    with scratch_folder(workspace) as scratch:
        # Messages have the folder's name, and one such as lessons_v3_20260201 has version and day.
        name = found.path.rpartition("/")[2]
        folder = scratch / (name if _FOLDER.fullmatch(name) else "run")
        folder.mkdir()
        sizes = {name: run.files[path] for name, path in found.files.items()}
        for name in wanted(sizes, found.path or f"run {run.id}", scratch):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            run.fetch(found.files[name], place)
        if not (folder / RUN_RECORD).exists():
            write_record(folder, run.record)
        try:
            return register(workspace, folder, submission)
        except AlreadyExistsError:
            # The same bytes from another run, or registered by hand: they are known, if nothing else contradicts that.
            return register(workspace, folder, replace(submission, tags={}))


def _task(project: str) -> str:
    """Return a project's name as that of a task.

    Raises:
        BadInputError: there is nothing left of it.
    """
    name = _NOT_OF_A_TASK.sub("_", project.casefold()).strip("._-")[:128].strip("._-")
    try:
        return parse_task(re.sub(r"\.\.+", ".", name))
    except BadInputError as error:
        raise BadInputError(
            f"{project[:60]!r} does not make the name of a task", hint="give --task"
        ) from error


def _chosen(
    metrics: Mapping[str, float], patterns: Sequence[str]
) -> tuple[dict[str, float], BadInputError | None]:
    """Return the metrics that were asked for, named as evaluations are, and what is wrong with others."""
    found: dict[str, float] = {}
    names: dict[str, str] = {}
    problem = None
    for name, value in sorted(metrics.items()):
        if not math.isfinite(value) or not any(fnmatch.fnmatchcase(name, each) for each in patterns):
            continue
        key = _NOT_OF_A_METRIC.sub(".", name).strip(".:@-")
        try:
            parse_metric(key)
        except BadInputError:
            problem = BadInputError(f"the metric {name[:60]!r} has no name that can be recorded")
            continue
        if key in found:
            said = f"the metrics {names[key][:60]!r} and {name[:60]!r} would both be called {key}"
            problem = BadInputError(said, hint="take one of them with --metric")
            continue
        found[key], names[key] = value, name
    return found, problem


def _record(workspace: Workspace, adapter: str, metrics: Mapping[str, float], tracker: str) -> None:
    if metrics:
        record_evaluations(workspace, adapter, metrics, setting=Setting(harness=tracker))
