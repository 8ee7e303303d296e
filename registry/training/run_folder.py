"""The folder of a run of `mlx_lm.lora`: numbered checkpoints, the final weights, log and record.

mlx-lm has written `NNNNNNN_adapters.safetensors` and `adapters.safetensors` since April 2024 (`tuner/trainer.py`), the
second again at each checkpoint and at the end; before that it wrote `.npz` files, which are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.folder import SourceFile, scan

from ..adapters.files import LOG_NAME, PEFT_WEIGHTS, RUN_RECORD, WEIGHTS
from ..adapters.finding import Finding, some
from ..adapters.folder import AdapterFolder
from ..admission.training_codes import (
    FINAL_WEIGHTS_UNCLEAR,
    OTHER_LOG,
    RECORD_UNUSABLE,
    STALE_CHECKPOINT,
    TRAINING_CONFLICT,
)
from ..errors import BadInputError
from .curve import Curve
from .log import Log, read_log

if TYPE_CHECKING:
    from .record import RunRecord

Source = Literal["record", "log", "config"]
State = Literal["finished", "stopped", "unknown"]

_NUMBERED = re.compile(r"(?P<iteration>[0-9]{7,10})_adapters\.safetensors")
LOG_LIMIT = 64 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that a run saved.

    Attributes:
        iteration: how many iterations they have behind them; None where that cannot be told.
        name: of the file.
        folder: in the run's folder, that the file is in; empty for the run's own.
    """

    iteration: int | None
    name: str
    folder: str = ""

    @property
    def path(self) -> str:
        """The file's path in the run's folder."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


@dataclass(frozen=True, slots=True)
class Run:
    """A training run as its folder and its log tell it.

    Attributes:
        name: of the folder, for messages.
        checkpoints: what can be registered, by iteration; the final weights come last.
        curve: what was measured, empty where that is not known.
        source: where the curve and the facts come from.
        state: whether the run came to its end.
        log: name of the log that was read.
        peak_memory: in bytes.
        record: what the run recorded of itself.
        best: the iteration that the trainer itself calls the best, by whatever it was told to judge by.
        remarks: findings about the folder.
    """

    name: str
    checkpoints: tuple[Checkpoint, ...]
    curve: Curve
    source: Source
    state: State
    log: str | None = None
    peak_memory: int | None = None
    record: RunRecord | None = None
    best: int | None = None
    remarks: tuple[Finding, ...] = ()

    @property
    def is_known(self) -> bool:
        """Anything is known beyond the weights and the configuration."""
        return self.source != "config" or any(item.path != WEIGHTS for item in self.checkpoints)

    @property
    def last_iteration(self) -> int | None:
        """The iteration of the last checkpoint, where it is known."""
        known = [item.iteration for item in self.checkpoints if item.iteration is not None]
        return max(known, default=None)


def read_run(folder: AdapterFolder, log: Path | None = None) -> Run:
    """Read what a run left, beside what `read_adapter_folder` has read.

    Args:
        folder: the run's folder.
        log: what the trainer printed; default: a log in the folder.

    Raises:
        MissingFileError: there is no such log.
        BadInputError: there is no curve in the log or it is of another run, or the folder holds several logs.
        FormatError: the log is too large.
    """
    files = {file.path: file for file in scan(folder.path)}
    remarks: list[Finding] = []
    iterations = folder.config.iters
    record = record_in(folder.path, remarks) if RUN_RECORD in files else None
    found, name = _log(folder, files, log, record, remarks)
    curve = record.learned() if record and (record.curve or not found.curve.points) else found.curve
    if record and found.curve.points:
        remarks += _compare(record.learned(), found.curve, name or "the log")
    ended = _ended(record, curve, iterations)
    numbered = _numbered(files, iterations, remarks)
    final = _final(folder, files, numbered, curve, record, ended, remarks)
    return Run(
        name=folder.path.resolve().name,
        checkpoints=(*numbered, *final),
        curve=curve,
        source="record" if record else "log" if curve.points else "config",
        state="finished" if ended else "stopped" if record and record.state == "stopped" else "unknown",
        log=name,
        peak_memory=(record.peak_memory if record else None) or found.peak_memory,
        record=record,
        remarks=tuple(remarks),
    )


def record_in(folder: Path, remarks: list[Finding]) -> RunRecord | None:
    """Return what a run recorded of itself in a folder; None, with a remark, where that cannot be used."""
    if not (folder / RUN_RECORD).is_file():
        return None
    from .record import read_record  # its types take a while to make

    try:
        return read_record(folder / RUN_RECORD)
    except (FormatError, MissingFileError) as error:
        remarks.append(RECORD_UNUSABLE.found(RUN_RECORD, f"{error.message}; it is not used"))
        return None


def _log(
    folder: AdapterFolder,
    files: dict[str, SourceFile],
    given: Path | None,
    record: RunRecord | None,
    remarks: list[Finding],
) -> tuple[Log, str | None]:
    """Return the log that was given, or the one log of the folder that has a curve and is of this run."""
    iterations = folder.config.iters
    if given is not None:
        log = read_log(given)
        if not log.curve.points and not log.curve.not_finite:
            raise BadInputError(
                f"there is no training curve in {given}",
                hint="give what mlx_lm.lora printed: mlx_lm.lora ... | tee train.log",
            )
        if _goes_beyond(log, iterations):
            message = _of_another_run(given.name, log, iterations)
            raise BadInputError(message, hint="give the log of this run, or none")
        return log, given.name
    candidates = {
        name: file.real for name, file in files.items() if LOG_NAME.fullmatch(name) and file.size <= LOG_LIMIT
    }
    logs = {name: log for name, path in candidates.items() if (log := read_log(path)).curve.points}
    for name in [name for name, log in logs.items() if _goes_beyond(log, iterations)]:
        message = _of_another_run(name, logs.pop(name), iterations)
        remarks.append(OTHER_LOG.found(name, f"{message}; it is not used"))
    if len(logs) > 1 and record is None:
        raise BadInputError(
            f"{folder.path.name or folder.path} holds {len(logs)} training logs: {some(logs)}",
            hint=f"say which: --log {folder.path / min(logs)}",
        )
    if len(logs) != 1:
        return Log(Curve()), None
    return next(iter(logs.values())), next(iter(logs))


def _goes_beyond(log: Log, iterations: int | None) -> bool:
    return iterations is not None and (log.curve.last_iteration or 0) > iterations


def _of_another_run(name: str, log: Log, iterations: int | None) -> str:
    return (
        f"{name} goes to iteration {log.curve.last_iteration}, and the configuration says {iterations}: "
        "it is the log of another run"
    )


def _compare(recorded: Curve, logged: Curve, name: str) -> Iterable[Finding]:
    """A log rounds to three decimals: more than that apart, and it is the log of another run."""
    losses = recorded.validations
    for iteration, loss in logged.validations.items():
        if iteration in losses and abs(losses[iteration] - loss) > 0.00051:
            message = (
                f"at iteration {iteration} {RUN_RECORD} has validation loss {losses[iteration]:.3f}, and {name} {loss:.3f}; "
                f"{RUN_RECORD} wins"
            )
            yield TRAINING_CONFLICT.found(name, message)
            return


def _ended(record: RunRecord | None, curve: Curve, iterations: int | None) -> bool:
    """Tell whether the run came to its end: it says so, or its last iteration was reported."""
    if record is not None and record.state == "finished":
        return True
    trained = [point.iteration for point in curve.points if point.train_loss is not None]
    # The last validation comes before the last step; where a log was cut down to validations, it has to do.
    last = max(trained) if trained else curve.last_iteration or 0
    return iterations is not None and last >= iterations


def _numbered(
    files: dict[str, SourceFile], iterations: int | None, remarks: list[Finding]
) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    stale: list[Checkpoint] = []
    for name in files:
        if match := _NUMBERED.fullmatch(name):
            checkpoint = Checkpoint(int(match["iteration"]), name)
            late = iterations is not None and int(match["iteration"]) > iterations
            (stale if late else found).append(checkpoint)
    if stale:
        message = (
            f"the run has {iterations} iterations, so {some(item.name for item in stale)} "
            f"{'is' if len(stale) == 1 else 'are'} of an earlier one; not used"
        )
        remarks.append(STALE_CHECKPOINT.found(stale[0].name, message))
    return sorted(found, key=lambda item: item.iteration or 0)


def _final(
    folder: AdapterFolder,
    files: dict[str, SourceFile],
    numbered: list[Checkpoint],
    curve: Curve,
    record: RunRecord | None,
    ended: bool,
    remarks: list[Finding],
) -> list[Checkpoint]:
    """Return the final weights with their iteration: the last checkpoint's if they have its bytes, else the end's."""
    if WEIGHTS not in files:
        return _final_peft(files, curve, record, ended, remarks)
    # What has no readable header may be a terabyte of nothing, and is not compared.
    comparable = numbered and folder.header is not None
    if comparable and same_bytes(files[WEIGHTS].real, files[numbered[-1].name].real):
        return [Checkpoint(numbered.pop().iteration, WEIGHTS)]
    iterations = folder.config.iters
    if ended or not curve.points:
        return [Checkpoint(iterations if iterations is not None else curve.last_iteration, WEIGHTS)]
    message = (
        f"the run is known to iteration {curve.last_iteration} of {iterations or 'an unknown number'}, and {WEIGHTS} is "
        f"{'not its last checkpoint' if numbered else 'the only weights'}: it cannot be told from which iteration it is"
    )
    remarks.append(FINAL_WEIGHTS_UNCLEAR.found(WEIGHTS, message, None if numbered else ""))
    return [Checkpoint(None, WEIGHTS)]


def _final_peft(
    files: dict[str, SourceFile],
    curve: Curve,
    record: RunRecord | None,
    ended: bool,
    remarks: list[Finding],
) -> list[Checkpoint]:
    """Return what PEFT saved, where a curve is known: of the end, unless the trainer may have gone back to its best."""
    if PEFT_WEIGHTS not in files or not curve.points:
        return []
    best, last = curve.best(), curve.last_iteration
    back = str((record.arguments if record else {}).get("load_best_model_at_end")).casefold() == "true"
    if ended and not (back and best is not None and best[0] != last):
        return [Checkpoint(last, PEFT_WEIGHTS)]
    message = f"it cannot be told from which of {last} iterations {PEFT_WEIGHTS} is"
    remarks.append(FINAL_WEIGHTS_UNCLEAR.found(PEFT_WEIGHTS, message, ""))
    return [Checkpoint(None, PEFT_WEIGHTS)]


def same_bytes(one: Path, other: Path) -> bool:
    """Compare two files."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            ours, theirs = left.read(_BLOCK), right.read(_BLOCK)
            if ours != theirs:
                return False
            if not ours:
                return True
