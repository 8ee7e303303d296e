"""Import the adapters of a tracker's runs, with the record of each run."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, cast

from fusery.storage.errors import FuseryError
from fusery.storage.plugins import Plugin, PluginError, blaming, find_plugin, load_plugin, plugins

from ..adapters import CONFIG, PEFT_WEIGHTS, RUN_RECORD, WEIGHTS
from ..errors import AlreadyExistsError, BadInputError
from ..names import parse_slug, parse_task
from ..parsing import plural
from ..parts import part
from ..record import Record, described
from ..records.evaluation import parse_metric
from ..registration.sources import wanted
from ..registration.training_record import write_record
from ..workspace.workspace import Workspace
from .tracked_run import TrackedAdapter, TrackedRun, is_inside, tracked_adapters

if TYPE_CHECKING:
    from ..records.adapter import Registered

_NOT_OF_A_TASK = re.compile(r"[^a-z0-9._-]+")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_OF_A_METRIC = re.compile(r"[^A-Za-z0-9_.:@-]+")


class ImportedRun(Record):
    """The result for an adapter among the files of a tracker's run."""

    run: str = described("the tracker's id of the run")
    run_name: str = described("its name in the tracker")
    project: str = described("its experiment in MLflow, or its project in W&B")
    path: str = described("of the adapter among the run's files; empty for all of them")
    adapter: str | None = described(
        "its name in this registry; None if it was refused, or in a dry run", default=None
    )
    created: bool = described("whether it is new", default=False)
    metrics: tuple[str, ...] = described("names of those that were recorded as evaluations", default=())
    error: str | None = described("why it, or a metric of it, was refused", default=None)
    hint: str | None = described("what to do then", default=None)
    REFERENCE: ClassVar[str] = "adapter"


class RunSource(Protocol):
    """Reads the runs of a tracker."""

    def __call__(
        self, source: str, /, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
    ) -> Iterator[TrackedRun]:
        """Yield the runs of a tracker, oldest first: those of some experiments (none for all), or single ones by id."""


SOURCES: Mapping[str, str] = {
    "mlflow": "integrations.mlflow_runs:mlflow_runs",
    "wandb": "integrations.wandb_runs:wandb_runs",
}
"""Sources of the part `integrations` by the tracker's name."""

_GROUP: Literal["fusery.sources"] = "fusery.sources"


def tracked_runs(
    tracker: str, source: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Return the runs of a tracker, oldest first: one of `SOURCES`, or a plugin's."""
    if (own := SOURCES.get(tracker)) is not None:
        read: RunSource = part(own)
        return read(source, experiments=experiments, runs=runs)
    plugin = find_plugin(_GROUP, tracker)
    if plugin is None:
        hint = f"choose from {', '.join(source_names())}"
        raise BadInputError(f"unknown tracker {tracker[:40]!r}", hint=hint)
    return _runs_of(plugin, source_of(plugin), source, experiments, runs)


def source_names() -> list[str]:
    """Return the names of all trackers, built-in ones first; no plugin is imported."""
    return [*SOURCES, *dict.fromkeys(plugin.name for plugin in plugins(_GROUP) if plugin.name not in SOURCES)]


def source_of(plugin: Plugin) -> RunSource:
    """Return a plugin's source."""
    try:
        parse_slug(plugin.name, "tracker")
    except BadInputError as error:
        raise plugin.wrong("has a name that is invalid in tags of imported runs") from error
    run_source = load_plugin(plugin, own=SOURCES)
    if not callable(run_source):
        raise plugin.wrong(f"is not callable: {plugin.value}")
    return cast("RunSource", run_source)


_END = object()


def _runs_of(
    plugin: Plugin, read: RunSource, source: str, experiments: Sequence[str], runs: Sequence[str]
) -> Iterator[TrackedRun]:
    """Yield a plugin's runs; report errors of the plugin, also while files are fetched."""
    with blaming(plugin):
        run_iterator = iter(read(source, experiments=experiments, runs=runs))
    while True:
        with blaming(plugin):
            run: object = next(run_iterator, _END)
            if run is _END:
                return
            if not isinstance(run, TrackedRun) or not all(map(is_inside, run.files)):
                raise plugin.wrong("yields an object that is not a TrackedRun with relative file paths")
        yield replace(run, fetch=partial(_fetch, plugin, run))


def _fetch(plugin: Plugin, run: TrackedRun, path: str, place: Path) -> None:
    with blaming(plugin):
        run.fetch(path, place)
    if place.is_symlink() or not place.is_file():
        raise plugin.wrong(f"did not fetch {path[:100]}")


def import_runs(
    workspace: Workspace,
    register: Callable[..., Registered],
    record: Callable[..., object],
    runs: Iterable[TrackedRun],
    tracker: str,
    *,
    base: str | None = None,
    task: str | None = None,
    metrics: Sequence[str] = (),
    dry_run: bool = False,
) -> Iterator[ImportedRun]:
    """Register the adapters of runs in their order, and yield the result for each; a refused one does not stop the others."""
    if task is not None:
        parse_task(task)
    seen, empty = 0, True
    for run in runs:
        seen += 1
        outcome = partial(ImportedRun, run=run.id, run_name=run.name, project=run.project)
        if (problem := run.problem) is not None:
            empty = False
            yield outcome(path="", error=problem.message, hint=problem.hint)
        for tracked_adapter in tracked_adapters(run):
            empty, imported = False, outcome(path=tracked_adapter.path)
            try:
                if not dry_run:
                    done = _register(workspace, register, run, tracked_adapter, tracker, base, task)
                    imported = replace(imported, adapter=done.name, created=done.created)
                    chosen, refused = _chosen(run.metrics, metrics)
                    if chosen:
                        record(done.name, chosen, harness=tracker)
                    imported = replace(imported, metrics=tuple(chosen))
                    if refused is not None:
                        raise refused
            except PluginError:
                raise  # it concerns all runs
            except FuseryError as error:
                imported = replace(imported, error=error.message, hint=error.hint)
            yield imported
    if empty:
        hint = f"an adapter is a folder of a run's artifacts with {CONFIG} and {WEIGHTS} or {PEFT_WEIGHTS}"
        raise BadInputError(f"no adapter found in {plural(seen, 'run')} of {tracker}", hint=hint)


def _register(
    workspace: Workspace,
    register: Callable[..., Registered],
    run: TrackedRun,
    tracked_adapter: TrackedAdapter,
    tracker: str,
    base: str | None,
    task: str | None,
) -> Registered:
    task = task or _task(run.project)
    tags = {f"{tracker}.run_id": run.id, f"{tracker}.project": run.project[:500]}
    with workspace.scratch() as scratch:
        # Messages show the folder's name; lessons_v3_20260201 gives version and date.
        name = tracked_adapter.path.rpartition("/")[2]
        folder = scratch / (name if _FOLDER.fullmatch(name) else "run")
        sizes = {name: run.files[path] for name, path in tracked_adapter.files.items()}
        for name in wanted(sizes, tracked_adapter.path or f"run {run.id}", scratch):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            run.fetch(tracked_adapter.files[name], place)
        if not (folder / RUN_RECORD).exists():
            write_record(folder, run.record)
        try:
            return register(folder, base=base, task=task, tags=tags)
        except AlreadyExistsError:
            # The same bytes were registered from another run, or by hand.
            return register(folder, base=base, task=task, tags={})


def _task(project: str) -> str:
    """Return a project's name as a task."""
    name = _NOT_OF_A_TASK.sub("_", project.casefold()).strip("._-")[:128].strip("._-")
    try:
        return parse_task(re.sub(r"\.\.+", ".", name))
    except BadInputError as error:
        problem = f"cannot derive a task name from project {project[:60]!r}"
        raise BadInputError(problem, hint="give --task") from error


def _chosen(
    metrics: Mapping[str, float], patterns: Sequence[str]
) -> tuple[dict[str, float], BadInputError | None]:
    """Return the requested metrics under names of evaluations, and the problem of others."""
    chosen_metrics, problem = dict[str, float](), None
    for name, value in sorted(metrics.items()):
        if not math.isfinite(value) or not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        key = _NOT_OF_A_METRIC.sub(".", name).strip(".:@-")
        try:
            parse_metric(key)
        except BadInputError:
            problem = BadInputError(f"invalid metric name: {name[:60]!r}")
            continue
        if key in chosen_metrics:
            problem = BadInputError(f"two metrics are called {key[:60]!r}", hint="select one with --metric")
            continue
        chosen_metrics[key] = value
    return chosen_metrics, problem
