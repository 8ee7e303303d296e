"""The runs of a Weights & Biases project, by W&B's client; nothing is unpickled, and references elsewhere are left out."""

from __future__ import annotations

import netrc
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.registry.errors import BadInputError, MissingExtraError, UnknownReferenceError
from fusery.registry.exchange.tracked_run import TrackedRun, is_inside
from fusery.registry.registration.training_record import RecordedData, RunRecord
from fusery.storage.processes import temporary_folder
from fusery.storage.secrets import remember, without_secrets

from . import tracker_client as tracking
from .tracker_client import Client, TrackedFile, is_number

if TYPE_CHECKING:
    from wandb import Api
    from wandb.apis.public import Run

_CLIENT = Client(
    "W&B",
    # Users of an import have not agreed to error reports; fusery shows its own progress.
    {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
    ["wandb"],
    "check WANDB_BASE_URL, WANDB_API_KEY and the network, and the run in W&B's own pages",
)
_PLACES = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
"""Folders in which the client would leave files, such as a second copy of every weight."""
_PROJECT = re.compile(r"[A-Za-z0-9_.-]{1,128}/[^/\x00-\x1f\\]{1,128}")
_CHECKPOINT = re.compile(r"checkpoint_global_step_([0-9]{1,12})")
"""The alias of a checkpoint logged by transformers' callback for W&B, as a version of one artifact."""
_STEP = "train/global_step"  # the training step of transformers' callback; `_step` counts what was logged
_STATES = {"finished": "finished", "failed": "stopped", "crashed": "stopped", "killed": "stopped"}
_SECONDS = 30
_PAGE = 100
_SAMPLES = 10_000
_MOST = 10_000  # files and artifacts of a run
_OTHERS = "--run ID takes other runs"


def wandb_runs(
    project: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Yield the runs of a project, oldest first."""
    if experiments:
        raise BadInputError("W&B has no experiments", hint="give a project, or select runs with --run ID")
    if not _PROJECT.fullmatch(project):
        hint = "give ENTITY/PROJECT from the URL of its page"
        raise BadInputError(f"invalid W&B project: {project[:100]!r}", hint=hint)
    with _quiet(), _CLIENT.readable("W&B"):
        api = _api()
        selected = [
            _run(api, project, number) for number in dict.fromkeys(runs)
        ]  # all, or none is registered
        for run in selected if runs else _all(api, project):
            yield _tracked(run, project)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the client leave no files, and end its service, unless this process logs to W&B itself."""
    ours = "wandb" not in sys.modules
    with temporary_folder("wandb") as scratch, _CLIENT.quiet(**dict.fromkeys(_PLACES, str(scratch))):
        try:
            yield
        finally:
            if ours and (wandb := sys.modules.get("wandb")) is not None:
                wandb.teardown()


def _api() -> Api:
    try:
        from wandb import Api
        from wandb.errors import UsageError
    except ImportError as error:
        raise MissingExtraError("W&B", "wandb") from error
    keys, terminal = [os.environ.get("WANDB_API_KEY", "")], sys.stdin
    with suppress(OSError, netrc.NetrcParseError):
        netrc_file = netrc.netrc(os.environ.get("NETRC") or None)
        keys += [password or "" for _, _, password in netrc_file.hosts.values()]
    remember({"key": keys})
    try:
        with Path(os.devnull).open(encoding="utf-8") as sys.stdin:  # the client would ask for a key
            return Api(timeout=_SECONDS)
    except UsageError as error:
        hint = "wandb login, or set WANDB_API_KEY"
        raise BadInputError("not logged in to W&B", hint=hint) from without_secrets(error)
    finally:
        sys.stdin = terminal


def _all(api: Api, project: str) -> Iterator[Run]:
    # Large parts of a run, which may be invalid, are requested later.
    pages = iter(api.runs(project, order="+created_at", per_page=_PAGE, lazy=True))
    try:
        yield from tracking.at_most(
            pages, tracking.MOST_RUNS, "the project has", "runs", "--run ID takes some"
        )
    except ValueError as error:
        # The client's message for a project that does not exist, or that this key may not read.
        if "Could not find project" not in str(error):
            raise
        hint = "check the spelling, and that the key may see it"
        raise UnknownReferenceError(f"W&B has no project {project}", hint=hint) from without_secrets(error)


def _run(api: Api, project: str, number: str) -> Run:
    message = f"run not found in W&B project {project}: {number[:60]!r}"
    unknown = UnknownReferenceError(message, hint="give the id from the URL of its page")
    if "/" in number or not number:
        raise unknown
    from wandb.errors import CommError

    try:
        return api.run(f"{project}/{number}")
    except CommError as error:
        if "Could not find run" not in str(error):
            raise
        raise unknown from without_secrets(error)


def _tracked(run: Run, project: str) -> TrackedRun:
    def read(files: dict[str, TrackedFile]) -> tuple[RunRecord, dict[str, float]]:
        files |= _files(run)
        metrics = {
            str(name): float(value)
            for name, value in dict(run.summary).items()  # the last value of each logged number
            if is_number(value) and not _is_internal(name)
        }
        return _record(run, dirty="diff.patch" in files), metrics

    return _CLIENT.run(str(run.id), str(run.name or run.id), project.partition("/")[2], read)


def _files(run: Run) -> dict[str, TrackedFile]:
    """Return the files of a run, and those of the artifacts that it has logged, below the name of each."""
    from wandb.sdk.lib.hashutil import md5_file_b64, xxh128_file_b64

    def has_digest(digest: str, path: Path) -> bool:
        return digest in (md5_file_b64(path), xxh128_file_b64(path))

    files: dict[str, TrackedFile] = {}
    for file in _few(run.files(per_page=_PAGE), run, "files"):
        files[str(file.name)] = TrackedFile(int(file.size), partial(_download, file))
    for artifact in _few(run.logged_artifacts(per_page=_PAGE), run, "artifacts"):
        if artifact.state != "COMMITTED" or str(artifact.type).startswith("wandb-"):
            continue
        folder = _folder(artifact)
        for path, entry in artifact.manifest.entries.items():
            if entry.ref is None:
                fetch, check = partial(_download_entry, artifact, path), partial(has_digest, entry.digest)
                files[f"{folder}/{path}"] = TrackedFile(entry.size, fetch, check)
        if len(files) > _MOST:
            raise BadInputError(f"run {run.id} has over {_MOST:,} files", hint=_OTHERS)
    if outside := next((path for path in files if not is_inside(path)), None):
        message = f"run {run.id} has a file outside its folder: {outside[:100]!r}"
        raise BadInputError(message, hint="inspect it in W&B's web interface")
    return files


def _few(items: Iterable[Any], run: Run, what: str) -> Iterator[Any]:
    return tracking.at_most(items, _MOST, f"run {run.id} has", what, _OTHERS)


def _folder(artifact: Any) -> str:
    """Return the folder of an artifact's files; checkpoints of one run are in a trainer's output folder."""
    steps = [match[1] for alias in artifact.aliases if (match := _CHECKPOINT.fullmatch(alias))]
    name = str(artifact.name)
    return f"{name.rpartition(':')[0]}/checkpoint-{steps[0]}" if steps else name


def _download(file: Any, folder: Path) -> Path:
    with file.download(root=str(folder), replace=True) as opened:
        return Path(opened.name)


def _download_entry(artifact: Any, path: str, folder: Path) -> Path:
    return Path(artifact.get_entry(path).download(root=str(folder)))


def _record(run: Run, *, dirty: bool) -> RunRecord:
    began = datetime.fromisoformat(str(run.created_at))
    began = began.replace(tzinfo=UTC) if began.tzinfo is None else began.astimezone(UTC)
    summary = dict(run.summary)
    took, step = summary.get("_runtime"), _STEP if _STEP in summary else "_step"

    def history(name: str) -> Iterator[tuple[object, object]]:
        keys = [name] if step == "_step" else [name, step]
        rows = run.history(samples=_SAMPLES, keys=keys, pandas=False)
        return ((row.get(step), row.get(name)) for row in rows)

    return RunRecord.model_validate(
        {
            "state": _STATES.get(str(run.state), "running"),
            "started_at": began,
            "seconds": max(0.0, float(took)) if is_number(took) else 0.0,
            "arguments": tracking.parameters(
                {name: run.config[name] for name in run.config if not _is_internal(name)}
            ),
            "curve": tracking.curve_of(run.id, summary, history),
            "dataset": _dataset(run),
            "git": tracking.git_of(str(run.commit or ""), dirty=dirty),
        }
    )


def _is_internal(name: object) -> bool:
    """Return whether a name is one of W&B's own."""
    return str(name).startswith("_")


def _dataset(run: Run) -> RecordedData | None:
    """Return the only artifact of the type `dataset` that the run has used."""
    listed = _few(run.used_artifacts(per_page=_PAGE), run, "used artifacts")
    used = [artifact for artifact in listed if str(artifact.type) == "dataset"]
    return tracking.dataset_of(str(used[0].name), str(used[0].digest)) if len(used) == 1 else None
