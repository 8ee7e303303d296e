"""The runs of a Weights & Biases project, read with W&B's own client.

Only what runs have said of themselves and their files are read: nothing is unpickled, and what an artifact merely refers to,
anywhere else, is left out.
"""

from __future__ import annotations

import logging
import math
import netrc
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from fusery.storage.errors import FuseryError
from fusery.storage.secrets import redact, remember, without_secrets
from fusery.storage.temporary import temporary_folder

from ..errors import BadInputError, MissingExtraError, UnknownReferenceError
from ..training.record import RecordedData, RecordedGit, RecordedPoint, RunRecord
from .tracked_run import (
    COMMIT,
    FINGERPRINT,
    LOSSES,
    MOST_RUNS,
    TEXT,
    UNKNOWN,
    TrackedRun,
    curve_of,
    is_inside,
    moved_in,
    parameters,
)

if TYPE_CHECKING:
    from wandb import Api
    from wandb.apis.public import Run

_CALM = {
    # Who imports from a tracker has agreed to nothing that its client tells others, and has a bar already.
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""Settings of W&B's client, where the user has said nothing else."""
_PLACES = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
"""Where the client would leave files, among them a second copy of every weight."""
_PROJECT = re.compile(r"[A-Za-z0-9_.-]{1,128}/[^/\x00-\x1f\\]{1,128}")
_CHECKPOINT = re.compile(r"checkpoint_global_step_([0-9]{1,12})")
"""The alias of a checkpoint that transformers' own callback for W&B logs, each as a version of one artifact."""
_STEP = "train/global_step"
"""What transformers' callback calls the step of the training, beside W&B's own count of what was logged."""
_STATES = {"finished": "finished", "failed": "stopped", "crashed": "stopped", "killed": "stopped"}
_SECONDS = 30
_PAGE = 100
_SAMPLES = 10_000
_MOST = 10_000
"""Files and artifacts of a run."""
_SAID = 200


def wandb_runs(
    project: str, *, experiments: Sequence[str] = (), runs: Sequence[str] = ()
) -> Iterator[TrackedRun]:
    """Yield the runs of a project, oldest first.

    Args:
        project: `ENTITY/PROJECT`, on the server that `WANDB_BASE_URL` or W&B's own settings name.
        experiments: refused, since W&B has none.
        runs: ids of single runs; none for all.

    Raises:
        MissingExtraError: W&B's client is not installed.
        BadInputError: that is no project, experiments are asked for, nobody is logged in, it cannot be read, or there are absurdly many runs.
        UnknownReferenceError: there is no such project or run.
    """
    if experiments:
        raise BadInputError(
            "W&B has no experiments", hint="the project says what is taken, and --run ID takes single runs"
        )
    if not _PROJECT.fullmatch(project):
        raise BadInputError(
            f"{project[:100]!r} is no project of W&B",
            hint="give ENTITY/PROJECT, as the address of its page has it",
        )
    with _calm(), _readable("W&B"):
        api = _api()
        found = [_run(api, project, each) for each in dict.fromkeys(runs)] if runs else _all(api, project)
        for run in found:
            yield _tracked(run, project)


@contextmanager
def _calm() -> Iterator[None]:
    """Let W&B's client be calm for as long as it is read from, and leave nothing.

    The process may be one that logs to W&B itself: what that has set up is not ended.
    """
    ours = "wandb" not in sys.modules
    logger = logging.getLogger("wandb")
    level = logger.level
    with temporary_folder("wandb") as scratch:
        changed = {name: value for name, value in _CALM.items() if name not in os.environ}
        changed |= {name: str(scratch) for name in _PLACES}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            if ours and (wandb := sys.modules.get("wandb")) is not None:
                wandb.teardown()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            logger.setLevel(level)


def _api() -> Api:
    try:
        from wandb import Api
        from wandb.errors import UsageError
    except ImportError as error:
        raise MissingExtraError("W&B", "wandb") from error
    _remember_keys()
    try:
        with _without_terminal():
            return Api(timeout=_SECONDS)
    except UsageError as error:
        raise BadInputError(
            "nobody is logged in to W&B here", hint="wandb login, or set WANDB_API_KEY"
        ) from without_secrets(error)


def _remember_keys() -> None:
    """Note the keys that the client may find, so that no message has one."""
    found = [os.environ.get("WANDB_API_KEY", "")]
    with suppress(OSError, netrc.NetrcParseError):
        known = netrc.netrc(os.environ.get("NETRC") or None)
        found += [password or "" for _, _, password in known.hosts.values()]
    remember({"key": found})


@contextmanager
def _without_terminal() -> Iterator[None]:
    """Keep the client from asking for a key and waiting for it."""
    given = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = given


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn what W&B's client raises, which may be anything, into a sentence about what was read."""
    try:
        yield
    except (FuseryError, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001 -- whatever W&B's client raises, it is said and stops the import
        said = redact(str(error)).partition("\n")[0][:_SAID]
        raise BadInputError(
            f"{what} cannot be read: {type(error).__name__}{f': {said}' if said else ''}",
            hint="check WANDB_BASE_URL, WANDB_API_KEY and the network, and the run in W&B's own pages",
        ) from without_secrets(error)


def _all(api: Api, project: str) -> Iterator[Run]:
    # What is large of a run, and may be odd, is asked for one by one.
    pages = iter(api.runs(project, order="+created_at", per_page=_PAGE, lazy=True))
    number = 0
    while True:
        try:
            run = next(pages, None)
        except ValueError as error:
            # What the client says where there is no such project, or one that this key may not see.
            if "Could not find project" not in str(error):
                raise
            raise UnknownReferenceError(
                f"W&B has no project {project}", hint="check the spelling, and that the key may see it"
            ) from without_secrets(error)
        if run is None:
            return
        if number == MOST_RUNS:
            raise BadInputError(f"there are over {MOST_RUNS:,} runs", hint="--run ID takes some")
        number += 1
        yield run


def _run(api: Api, project: str, number: str) -> Run:
    unknown = UnknownReferenceError(
        f"W&B has no run {number[:60]!r} in {project}", hint="give its id, as the address of its page has it"
    )
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
    """Return a run; one that is not what W&B writes has a problem, and keeps no other out."""
    number, name = str(run.id), str(run.name or run.id)[:TEXT]
    files: dict[str, _File] = {}

    def fetch(path: str, place: Path) -> None:
        file = files[path]
        with _readable(f"{path[:200]} of W&B's run {number[:60]}"):
            said = f"what W&B gave for {path[:200]} is not the file that it lists"
            moved_in(place, file.put, said, size=file.size, digest=lambda got: _is(got, file.digest))

    try:
        with _readable(f"W&B's run {number[:60]}"):
            files |= _files(run)
            record = _record(run, dirty="diff.patch" in files)
            metrics = _metrics(run)
    except BadInputError as problem:
        return TrackedRun(number, name, project, UNKNOWN, {}, {}, fetch, problem)
    sizes = {path: each.size for path, each in files.items()}
    return TrackedRun(number, name, project.partition("/")[2], record, metrics, sizes, fetch)


class _File:
    """A file of a run or of an artifact: its size, its digest as the client writes it, and how it is fetched into a folder."""

    def __init__(self, size: int | None, digest: str | None, put: Callable[[Path], Path]) -> None:
        self.size, self.digest, self.put = size, digest, put


def _is(path: Path, digest: str | None) -> bool:
    """Tell whether a file has a digest, in one of the two ways in which W&B's client makes them."""
    if digest is None:
        return True
    from wandb.sdk.lib.hashutil import md5_file_b64, xxh128_file_b64

    return digest in (md5_file_b64(path), xxh128_file_b64(path))


def _files(run: Run) -> dict[str, _File]:
    """Return the files of a run, and those of the artifacts that it has logged, below the name of each."""
    found: dict[str, _File] = {}
    for file in _few(run.files(per_page=_PAGE), run, "files"):
        found[str(file.name)] = _File(int(file.size), None, _of_run(file))
    for artifact in _few(run.logged_artifacts(per_page=_PAGE), run, "artifacts"):
        if artifact.state != "COMMITTED" or str(artifact.type).startswith("wandb-"):
            continue
        folder = _folder(artifact)
        for path, entry in artifact.manifest.entries.items():
            if entry.ref is None:
                found[f"{folder}/{path}"] = _File(entry.size, entry.digest, _of_artifact(artifact, path))
        if len(found) > _MOST:
            raise _too_many(run, "files")
    if outside := next((path for path in found if not is_inside(path)), None):
        raise BadInputError(
            f"run {run.id} has a file outside of its folder: {outside[:100]!r}",
            hint="look at it in W&B's pages",
        )
    return found


def _few(items: Iterable[Any], run: Run, what: str) -> Iterator[Any]:
    """Yield what a server lists, which may be without an end."""
    for number, each in enumerate(items):
        if number == _MOST:
            raise _too_many(run, what)
        yield each


def _too_many(run: Run, what: str) -> BadInputError:
    return BadInputError(f"run {run.id} has over {_MOST:,} {what}", hint="--run ID takes other runs")


def _folder(artifact: Any) -> str:
    """Return what an artifact's files lie below: versions that are checkpoints of one run are a trainer's output folder."""
    steps = [match[1] for alias in artifact.aliases if (match := _CHECKPOINT.fullmatch(alias))]
    if steps:
        return f"{str(artifact.name).rpartition(':')[0]}/checkpoint-{steps[0]}"
    return str(artifact.name)


def _of_run(file: Any) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        with file.download(root=str(folder), replace=True) as opened:
            return Path(opened.name)

    return put


def _of_artifact(artifact: Any, path: str) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        entry = artifact.get_entry(path)
        if entry.ref is not None:
            raise BadInputError(f"{path[:200]} only refers to a file", hint="log the file itself")
        return Path(entry.download(root=str(folder)))

    return put


def _metrics(run: Run) -> dict[str, float]:
    """Return the last value of each number that was logged."""
    return {
        str(name): float(value)
        for name, value in dict(run.summary).items()
        if _is_number(value) and not str(name).startswith("_")
    }


def _record(run: Run, *, dirty: bool) -> RunRecord:
    """Return what W&B knows of a run, as a run would have recorded it itself."""
    began = datetime.fromisoformat(str(run.created_at))
    began = began.replace(tzinfo=UTC) if began.tzinfo is None else began.astimezone(UTC)
    took = dict(run.summary).get("_runtime")
    return RunRecord.model_validate(
        {
            "state": _STATES.get(str(run.state), "running"),
            "started_at": began,
            "seconds": max(0.0, float(took)) if _is_number(took) else 0.0,
            "arguments": parameters(_plain(run.config)),
            "curve": _curve(run),
            "dataset": _dataset(run),
            "git": _git(run, dirty=dirty),
        }
    )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in config.items() if not str(name).startswith("_")}


def _curve(run: Run) -> list[RecordedPoint]:
    known, points = dict(run.summary), dict[int, dict[str, float]]()
    step = _STEP if _STEP in known else "_step"
    for field, names in LOSSES.items():
        name = next((each for each in names if each in known), None)
        if name is None:
            continue
        keys = [name] if step == "_step" else [name, step]
        for row in run.history(samples=_SAMPLES, keys=keys, pandas=False):
            at, value = row.get(step), row.get(name)
            if _is_number(at) and _is_number(value) and 0 <= at < 2**31:
                points.setdefault(int(at), {})[field] = float(value)
    return curve_of(run.id, points)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _dataset(run: Run) -> RecordedData | None:
    """Return what was trained on: the only artifact of the type `dataset` that the run has used."""
    listed = _few(run.used_artifacts(per_page=_PAGE), run, "artifacts that it has used")
    used = [each for each in listed if str(each.type) == "dataset"]
    if len(used) != 1:
        return None
    digest = str(used[0].digest)
    return RecordedData(
        name=str(used[0].name)[:TEXT], fingerprint=digest if FINGERPRINT.fullmatch(digest) else None
    )


def _git(run: Run, *, dirty: bool) -> RecordedGit | None:
    """Return the commit; what differed from it is a file of the run."""
    commit = str(run.commit or "")
    return RecordedGit(commit=commit, dirty=dirty) if COMMIT.fullmatch(commit) else None
