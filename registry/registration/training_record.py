"""`fusery_run.json`: the record that a run keeps of itself in its folder, replaced whole by a rename."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import FormatError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import is_keepable, read_object
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.publishing import write_atomically
from fusery.storage.secrets import without_credentials

from ..adapters import RUN_RECORD
from ..names import dataset_name
from .training_curve import Curve, Point

MOST_POINTS = 200_000  # points of a run's curve
State = Literal["running", "finished", "stopped"]
_Iteration = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Large = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, le=1e12)]
_Text = Annotated[str, Field(max_length=500)]
_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]


class RecordedPoint(BaseModel):
    """One point of the curve."""

    iteration: _Iteration
    train_loss: _Finite | None = None
    val_loss: _Finite | None = None
    learning_rate: Annotated[_Finite, Field(ge=0)] | None = None
    trained_tokens: _Large | None = None


class RecordedFile(BaseModel):
    """One file of the data folder."""

    path: _Text
    size: _Large
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    examples: _Large


class RecordedData(BaseModel):
    """What the run was trained on; `digest` and `files` are known of a local folder, `fingerprint` by `datasets` only."""

    name: Annotated[_Text, AfterValidator(dataset_name)] | None = None
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    fingerprint: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,64}$")] | None = None
    files: Annotated[list[RecordedFile], Field(max_length=3)] = []
    examples: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class RecordedGit(BaseModel):
    """Where the working folder was."""

    commit: _Hex
    dirty: bool


class RecordedMachine(BaseModel):
    """What the run took place on; memory in bytes."""

    platform: _Text | None = None
    processor: _Text | None = None
    cpus: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    memory: _Large | None = None


class RecordedStart(BaseModel):
    """The weights that training was continued from, hashed when it began: the file may be written over since."""

    path: _Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RunRecord(BaseModel):
    """The whole record.  Losses that are not finite are not in the curve; their iterations are in `not_finite`."""

    model_config = ConfigDict(extra="ignore")

    format: Literal[1] = 1
    state: State = "running"
    started_at: datetime
    seconds: _Seconds = 0.0
    arguments: Annotated[dict[str, Any], AfterValidator(without_credentials)] = {}
    curve: Annotated[list[RecordedPoint], Field(max_length=MOST_POINTS)] = []
    not_finite: Annotated[list[_Iteration], Field(max_length=MOST_POINTS)] = []
    peak_memory: _Large | None = None
    dataset: RecordedData | None = None
    resumed: RecordedStart | None = None
    machine: RecordedMachine | None = None
    versions: Annotated[dict[_Text, _Text], Field(max_length=50)] = {}
    git: RecordedGit | None = None

    def learned(self) -> Curve:
        """Return the curve."""
        points = (Point(**point.model_dump()) for point in self.curve)
        curve = Curve.of(points)
        return Curve(curve.points, tuple(sorted(set(self.not_finite))))

    def started(self) -> datetime:
        """Return when the run began, in UTC."""
        moment = self.started_at
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write a record into a run's folder, whole or not at all."""
    document = record.model_dump(mode="json", exclude_none=True)
    text = json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False)
    write_atomically(folder / RUN_RECORD, text.encode() + b"\n")


def read_record(path: Path) -> RunRecord:
    """Read an untrusted record."""
    document = read_object(path)
    if not is_keepable(document):
        raise FormatError(f"{RUN_RECORD} holds text with NUL or half of a character")
    try:
        return RunRecord.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{RUN_RECORD}: {where}: {first['msg']}") from error


NAMES = ("train.jsonl", "valid.jsonl", "test.jsonl")


def read_data(folder: Path) -> RecordedData | None:
    """Hash the files of a data folder and count their examples, one a line; None when there is no such folder or file."""
    files = []
    with os_failures(f"read {folder}", near=folder):
        for name in NAMES:
            path = folder / name
            if path.is_file():
                digest, size = digest_file(path)
                with path.open("rb") as file:
                    lines = sum(1 for _ in file)
                files.append(RecordedFile(path=name, size=size, sha256=digest, examples=lines))
    if not files:
        return None
    manifest = Manifest.of(FileEntry(file.path, file.size, Digest(file.sha256)) for file in files)
    examples = next((file.examples for file in files if file.path == NAMES[0]), None)
    return RecordedData(digest=manifest.digest, files=files, examples=examples)


_PATIENCE = 10.0


def begin_record(
    arguments: Mapping[str, object],
    dataset: RecordedData | None,
    *,
    resumed: RecordedStart | None = None,
    packages: Iterable[str] = ("mlx", "mlx-lm"),
    folder: Path = Path(),
) -> RunRecord:
    """Return the record of a run that begins now, in a working folder whose git commit is recorded."""
    memory = None
    with suppress(ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = RecordedMachine(
        platform=f"{platform.system()}-{platform.release()}-{platform.machine()}",
        processor=_processor(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory,
    )
    return RunRecord(
        started_at=datetime.now(UTC),
        arguments=dict(arguments),
        dataset=dataset,
        resumed=resumed,
        machine=machine,
        versions=versions(packages),
        git=git_commit(folder),
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, of fusery, and of the packages that the result depends on, where they are installed."""
    package_versions = {"python": platform.python_version()}
    for package in (*packages, "fusery"):
        try:
            package_versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return package_versions


def git_commit(folder: Path) -> RecordedGit | None:
    """Return a folder's commit and whether tracked files may differ; None without a repository, whose programs are not run."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    filters = _filters(folder)
    if filters is None:
        return RecordedGit(commit=commit.strip(), dirty=True)
    # What a filter would make of a file is not known then: one that it changes, and whose times differ, counts as changed.
    # The user's own are left out as well: the repository tells git-lfs, for one, what to run.
    unset = ("clean=", "process=", "required=false")
    without = (f"filter.{name}.{field}" for name in filters for field in unset)
    # Within a submodule its own configuration would count.
    status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    changes = _git(folder, *(word for setting in without for word in ("-c", setting)), *status)
    return RecordedGit(commit=commit.strip(), dirty=changes is None or bool(changes.strip()))


def _filters(folder: Path) -> set[str] | None:
    """Return the filters that git knows in a repository; None if they are unknown."""
    # The second is in every repository, so that no answer is one, too.
    wanted = r"^(filter\.|core\.repositoryformatversion$)"
    git = _git(folder, "config", "--null", "--name-only", "--get-regexp", wanted)
    if git is None:
        return None
    keys = [key for key in git.split("\0") if key.startswith("filter.")]
    names = {key.removeprefix("filter.").rpartition(".")[0] for key in keys}
    return None if any("=" in name for name in names) else names


def _git(folder: Path, *arguments: str) -> str | None:
    # No lock is taken, no program that the repository's configuration names is run, and no server asked.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    alone = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **alone},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


def _processor() -> str:
    """Return the name of the chip if mlx gives it, else the kind of processor."""
    mlx: Any = sys.modules.get("mlx.core")
    name = mlx.device_info().get("device_name") if hasattr(mlx, "device_info") else None
    return str(name or platform.processor() or platform.machine())
