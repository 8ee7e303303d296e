"""`fusery_run.json`: the record that a run writes about itself into its folder while it goes on.

It is written whole each time and put in place by a rename, so that a run that was killed leaves the last state.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object
from fusery.storage.plaintext import is_keepable
from fusery.storage.publishing import write_atomically
from fusery.storage.secrets import without_credentials

from ..adapters.files import RUN_RECORD
from .curve import Curve, Point

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

    name: _Text | None = None
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
    curve: Annotated[list[RecordedPoint], Field(max_length=200_000)] = []
    not_finite: Annotated[list[_Iteration], Field(max_length=200_000)] = []
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
    """Write a record into a run's folder, whole or not at all.

    Raises:
        OutOfSpaceError, StoreDeniedError: the folder cannot be written to.
    """
    text = json.dumps(
        record.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=True, allow_nan=False
    )
    write_atomically(folder / RUN_RECORD, text.encode() + b"\n")


def read_record(path: Path) -> RunRecord:
    """Read a record that nobody vouches for.

    Raises:
        FormatError: it is no such record; one sentence says why.
        StoreDeniedError: it may not be read.
    """
    found = read_object(path)
    if not is_keepable(found):
        raise FormatError(f"{RUN_RECORD} holds text with NUL or half of a character")
    try:
        return RunRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{RUN_RECORD}: {where}: {first['msg']}") from error
