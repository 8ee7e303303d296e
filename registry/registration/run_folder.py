"""The folder of a run of `mlx_lm.lora`: numbered checkpoints, the final weights, log and record.

mlx-lm has written `NNNNNNN_adapters.safetensors` and `adapters.safetensors` since April 2024 (`tuner/trainer.py`), the
second again at each checkpoint and at the end; before that it wrote `.npz` files, which are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.folder import scan

from ..adapters.files import LOG_NAME, PEFT_WEIGHTS, RUN_RECORD, WEIGHTS
from ..adapters.finding import Finding, some
from ..adapters.folder import AdapterFolder
from ..admission.code import (
    FINAL_WEIGHTS_UNCLEAR,
    OTHER_LOG,
    RECORD_UNUSABLE,
    STALE_CHECKPOINT,
    TRAINING_CONFLICT,
)
from ..errors import BadInputError
from .training_curve import Curve, Log, read_log

if TYPE_CHECKING:
    from .training_record import RunRecord

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
    """A training run as its folder and its log tell it."""

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

    def loss_of(self, item: Checkpoint) -> float | None:
        """Return the validation loss that was measured at a checkpoint's own iteration."""
        return None if item.iteration is None else self.curve.validations.get(item.iteration)

    @property
    def last_iteration(self) -> int | None:
        """The iteration of the last checkpoint, where it is known."""
        known = [item.iteration for item in self.checkpoints if item.iteration is not None]
        return max(known, default=None)


def read_run(folder: AdapterFolder, log: Path | None = None) -> Run:
    """Read what a run left, beside what `read_adapter_folder` has read; with the log that is given, or one in the folder."""
    return _RunReader(folder).read(log)


def record_in(folder: Path, remarks: list[Finding]) -> RunRecord | None:
    """Return what a run recorded of itself in a folder; None, with a remark, where that cannot be used."""
    if not (folder / RUN_RECORD).is_file():
        return None
    from .training_record import read_record

    try:
        return read_record(folder / RUN_RECORD)
    except (FormatError, MissingFileError) as error:
        remarks.append(RECORD_UNUSABLE.found(RUN_RECORD, f"{error.message}; it is not used"))
        return None


class _RunReader:
    """Reads the run of one folder, and collects remarks."""

    def __init__(self, folder: AdapterFolder) -> None:
        self.folder, self.iterations = folder, folder.config.iters
        self.files = {file.path: file for file in scan(folder.path)}
        self.remarks: list[Finding] = []
        self.record = record_in(folder.path, self.remarks) if RUN_RECORD in self.files else None

    def read(self, given: Path | None) -> Run:
        record = self.record
        log, name = self._log(given)
        curve = record.learned() if record and (record.curve or not log.curve.points) else log.curve
        if record and log.curve.points:
            self._compare(record.learned(), log.curve, name or "the log")
        ended = self._ended(curve)
        numbered = self._numbered()
        final = self._final(numbered, curve, ended)
        return Run(
            name=self.folder.path.resolve().name,
            checkpoints=(*numbered, *final),
            curve=curve,
            source="record" if record else "log" if curve.points else "config",
            state="finished" if ended else "stopped" if record and record.state == "stopped" else "unknown",
            log=name,
            peak_memory=(record.peak_memory if record else None) or log.peak_memory,
            record=record,
            remarks=tuple(self.remarks),
        )

    def _log(self, given: Path | None) -> tuple[Log, str | None]:
        """Return the log that was given, or the one log of the folder that has a curve and is of this run."""
        if given is not None:
            log = read_log(given)
            if not log.curve.points and not log.curve.not_finite:
                raise BadInputError(
                    f"there is no training curve in {given}",
                    hint="give what mlx_lm.lora printed: mlx_lm.lora ... | tee train.log",
                )
            if (other := self._of_another_run(given.name, log)) is not None:
                raise BadInputError(other, hint="give the log of this run, or none")
            return log, given.name
        logs = {
            name: log
            for name, file in self.files.items()
            if LOG_NAME.fullmatch(name) and file.size <= LOG_LIMIT
            if (log := read_log(file.real)).curve.points
        }
        for name, log in list(logs.items()):
            if (other := self._of_another_run(name, log)) is not None:
                del logs[name]
                self.remarks.append(OTHER_LOG.found(name, f"{other}; it is not used"))
        if len(logs) > 1 and self.record is None:
            path = self.folder.path
            raise BadInputError(
                f"{path.name or path} holds {len(logs)} training logs: {some(logs)}",
                hint=f"say which: --log {path / min(logs)}",
            )
        if len(logs) != 1:
            return Log(Curve()), None
        ((name, log),) = logs.items()
        return log, name

    def _of_another_run(self, name: str, log: Log) -> str | None:
        last = log.curve.last_iteration
        if self.iterations is None or (last or 0) <= self.iterations:
            return None
        return f"{name} goes to iteration {last}, and the configuration says {self.iterations}: it is the log of another run"

    def _compare(self, recorded: Curve, logged: Curve, name: str) -> None:
        """Compare with a log, which rounds to three decimals: more than that apart, and it is of another run."""
        losses = recorded.validations
        for iteration, loss in logged.validations.items():
            if iteration in losses and abs(losses[iteration] - loss) > 0.00051:
                message = (
                    f"at iteration {iteration} {RUN_RECORD} has validation loss {losses[iteration]:.3f}, and {name} {loss:.3f}; "
                    f"{RUN_RECORD} wins"
                )
                self.remarks.append(TRAINING_CONFLICT.found(name, message))
                return

    def _ended(self, curve: Curve) -> bool:
        """Tell whether the run came to its end: it says so, or its last iteration was reported."""
        if self.record is not None and self.record.state == "finished":
            return True
        trained = [point.iteration for point in curve.points if point.train_loss is not None]
        # The last validation comes before the last step; where a log was cut down to validations, it has to do.
        last = max(trained) if trained else curve.last_iteration or 0
        return self.iterations is not None and last >= self.iterations

    def _numbered(self) -> list[Checkpoint]:
        kept: list[Checkpoint] = []
        stale: list[Checkpoint] = []
        for name in self.files:
            if match := _NUMBERED.fullmatch(name):
                iteration = int(match["iteration"])
                late = self.iterations is not None and iteration > self.iterations
                (stale if late else kept).append(Checkpoint(iteration, name))
        if stale:
            message = (
                f"the run has {self.iterations} iterations, so {some(item.name for item in stale)} "
                f"{'is' if len(stale) == 1 else 'are'} of an earlier one; not used"
            )
            self.remarks.append(STALE_CHECKPOINT.found(stale[0].name, message))
        return sorted(kept, key=lambda item: item.iteration or 0)

    def _final(self, numbered: list[Checkpoint], curve: Curve, ended: bool) -> list[Checkpoint]:
        """Return the final weights with their iteration: the last checkpoint's if they have its bytes, else the end's."""
        if WEIGHTS not in self.files:
            return self._final_peft(curve, ended)
        # Weights without a readable header may be a terabyte of nothing, and are not compared.
        comparable = numbered and self.folder.header is not None
        if comparable and same_bytes(self.files[WEIGHTS].real, self.files[numbered[-1].name].real):
            return [Checkpoint(numbered.pop().iteration, WEIGHTS)]
        if ended or not curve.points:
            end = self.iterations if self.iterations is not None else curve.last_iteration
            return [Checkpoint(end, WEIGHTS)]
        message = (
            f"the run is known to iteration {curve.last_iteration} of {self.iterations or 'an unknown number'}, and {WEIGHTS} is "
            f"{'not its last checkpoint' if numbered else 'the only weights'}: its iteration is unknown"
        )
        self.remarks.append(FINAL_WEIGHTS_UNCLEAR.found(WEIGHTS, message, None if numbered else ""))
        return [Checkpoint(None, WEIGHTS)]

    def _final_peft(self, curve: Curve, ended: bool) -> list[Checkpoint]:
        """Return what PEFT saved, where a curve is known: of the end, unless the trainer may have gone back to its best."""
        if PEFT_WEIGHTS not in self.files or not curve.points:
            return []
        best, last = curve.best(), curve.last_iteration
        arguments = self.record.arguments if self.record else {}
        back = str(arguments.get("load_best_model_at_end")).casefold() == "true"
        if ended and not (back and best is not None and best[0] != last):
            return [Checkpoint(last, PEFT_WEIGHTS)]
        message = f"unknown which of {last} iterations {PEFT_WEIGHTS} is"
        self.remarks.append(FINAL_WEIGHTS_UNCLEAR.found(PEFT_WEIGHTS, message, ""))
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
