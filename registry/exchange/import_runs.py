"""Importing the adapters that a tracker keeps: each is registered as its trainer left it, with what is known of its run."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, cast

from fusery.storage.errors import FuseryError
from fusery.storage.plugins import Plugin, PluginError, blaming, find_plugin, load_plugin, plugins

from ..adapters.files import CONFIG, PEFT_WEIGHTS, RUN_RECORD, WEIGHTS
from ..errors import AlreadyExistsError, BadInputError
from ..names import parse_slug, parse_task
from ..parsing import plural
from ..record import Record
from ..records.evaluations import parse_metric
from ..records.scratch import scratch_folder
from ..registration.sources import wanted
from ..training.record import write_record
from .tracked_run import TrackedAdapter, TrackedRun, is_inside, tracked_adapters

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


class Source(Protocol):
    """Reads the runs of a tracker."""

    def __call__(
        self, source: str, /, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
    ) -> Iterator[TrackedRun]:
        """Yield runs, oldest first.

        Args:
            source: where the tracker keeps them, as the user says it.
            experiments: names of those to read; none for all.  A tracker that has none refuses them.
            runs: ids of single runs, instead.

        Raises:
            BadInputError: there is nothing there, or it cannot be read.
            UnknownReferenceError: there is no such experiment or run.
        """


SOURCES: Mapping[str, str] = {"mlflow": ".mlflow_runs:mlflow_runs", "wandb": ".wandb_runs:wandb_runs"}
"""Fusery's own, by the tracker's name: a module within this package and its function."""

_GROUP: Literal["fusery.sources"] = "fusery.sources"


def tracked_runs(
    tracker: str, source: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Return the runs that a tracker has, oldest first: one of `SOURCES`, or a plugin's.

    Raises:
        BadInputError: there is no such tracker.
        PluginError: it is a plugin's, and that failed.
    """
    if (own := SOURCES.get(tracker)) is not None:
        module, _, name = own.partition(":")
        read: Source = getattr(import_module(module, __package__), name)
        return read(source, experiments=experiments, runs=runs)
    plugin = find_plugin(_GROUP, tracker)
    if plugin is None:
        raise BadInputError(
            f"there is no tracker {tracker[:40]!r}", hint=f"--from {'|'.join(source_names())}"
        )
    return _runs_of(plugin, source_of(plugin), source, experiments, runs)


def source_names() -> list[str]:
    """Return the names of all trackers, fusery's own first; no plugin is imported."""
    return [*SOURCES, *dict.fromkeys(each.name for each in plugins(_GROUP) if each.name not in SOURCES)]


def source_of(plugin: Plugin) -> Source:
    """Return what a plugin reads runs with.

    Raises:
        PluginError: it is nothing that could.
    """
    try:
        parse_slug(plugin.name, "tracker")
    except BadInputError as error:
        raise plugin.wrong("has a name that no tag can begin with, as those of imported runs do") from error
    found = load_plugin(plugin, own=SOURCES)
    if not callable(found):
        raise plugin.wrong(f"cannot be called, as {plugin.value} has to be")
    return cast("Source", found)


_END = object()


def _runs_of(
    plugin: Plugin, read: Source, source: str, experiments: Sequence[str], runs: Sequence[str]
) -> Iterator[TrackedRun]:
    """Yield what a plugin finds, and look after what it does when its files are fetched."""
    with blaming(plugin):
        found = iter(read(source, experiments=experiments, runs=runs))
    while True:
        with blaming(plugin):
            run: object = next(found, _END)
            if run is _END:
                return
            if not isinstance(run, TrackedRun) or not all(map(is_inside, run.files)):
                raise plugin.wrong(
                    "yields something else than runs, with paths of files that stay within them"
                )
        yield replace(run, fetch=_fetch_of(plugin, run))


def _fetch_of(plugin: Plugin, run: TrackedRun) -> Callable[[str, Path], None]:
    def fetch(path: str, place: Path) -> None:
        with blaming(plugin):
            run.fetch(path, place)
        if place.is_symlink() or not place.is_file():
            raise plugin.wrong(f"has not fetched {path[:100]}")

    return fetch


class Register(Protocol):
    """Registers a folder: `registry.adapters.register`."""

    def __call__(
        self, folder: Path, *, base: str | None, task: str | None, tags: Mapping[str, str]
    ) -> Registered:
        """Return its record."""


class RecordMetrics(Protocol):
    """Records what was measured of an adapter: `registry.evaluations.record`."""

    def __call__(self, reference: str, results: Mapping[str, float], *, harness: str) -> object:
        """Record it."""


def import_runs(
    workspace: Workspace,
    register: Register,
    record: RecordMetrics,
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
        workspace: the registry's parts, for what is fetched.
        register: registers a folder.
        record: records metrics.
        runs: as the tracker has them.
        tracker: its name, for tags and evaluations.
        base: that they stand on; None for the one that the files of each name.
        task: what they are for; None for the name of the run's project.
        metrics: patterns such as `mmlu*`; what they match is recorded as evaluations.
        dry_run: only look what there is.

    Raises:
        BadInputError: the task's name is invalid, the tracker cannot be read, or no run has an adapter.
    """
    if task is not None:
        parse_task(task)
    seen, empty = 0, True
    for run in runs:
        seen += 1
        if run.problem is not None:
            empty = False
            yield _imported(run, TrackedAdapter(""), error=run.problem)
        for found in tracked_adapters(run):
            empty = False
            if dry_run:
                yield _imported(run, found)
                continue
            try:
                done = _register(workspace, register, run, found, tracker, base, task)
            except PluginError:
                raise  # of all that it was asked for, and not this run's
            except FuseryError as error:
                yield _imported(run, found, error=error)
                continue
            chosen, problem = _chosen(run.metrics, metrics)
            try:
                if chosen:
                    record(done.name, chosen, harness=tracker)
            except (BadInputError, AlreadyExistsError) as error:
                yield _imported(run, found, done, error=error)
                continue
            yield _imported(run, found, done, chosen, problem)
    if empty:
        raise BadInputError(
            f"no adapter found in {plural(seen, 'run')} of {tracker}",
            hint=f"an adapter is a folder of a run's artifacts with {CONFIG} and {WEIGHTS} or {PEFT_WEIGHTS}",
        )


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
    register: Register,
    run: TrackedRun,
    found: TrackedAdapter,
    tracker: str,
    base: str | None,
    task: str | None,
) -> Registered:
    task = task or _task(run.project)
    tags = {f"{tracker}.run_id": run.id, f"{tracker}.project": run.project[:500]}
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
            return register(folder, base=base, task=task, tags=tags)
        except AlreadyExistsError:
            # The same bytes from another run, or registered by hand: they are known, if nothing else contradicts that.
            return register(folder, base=base, task=task, tags={})


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
