"""The run that an adapter folder is of, and the checkpoint of it that is meant: what registering needs to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import FormatError

from ..adapters.files import CHECKPOINT, PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..admission.submission import Submission
from ..errors import BadInputError
from .checkpoint import Choice, choice_findings, choose
from .conflicts import conflicts
from .run_folder import Run, read_run
from .trainer_folder import conflict, read_trainer_folder, run_of_state, state_in
from .trainer_state import STATE, TrainerState, read_trainer_state

if TYPE_CHECKING:
    from .record import RecordedData


@dataclass(frozen=True, slots=True)
class Training:
    """A run, the checkpoint that is registered, and what that says about the adapter."""

    run: Run
    choice: Choice

    @property
    def weights(self) -> str:
        """Name of the file that is registered as `adapters.safetensors`, in the folder that was read."""
        return self.choice.checkpoint.name

    @property
    def data(self) -> RecordedData | None:
        """What the run says it was trained on."""
        return self.run.record.dataset if self.run.record else None

    @property
    def day(self) -> date | None:
        """The day on which the run says it began, in UTC."""
        return self.run.record.started().date() if self.run.record else None

    @property
    def continued(self) -> str | None:
        """Digest of the weights that the run says it went on from."""
        return self.run.record.resumed.sha256 if self.run.record and self.run.record.resumed else None

    def iterations(self, folder: AdapterFolder) -> int | None:
        """Return how many iterations the weights have behind them; as configured where only that is known."""
        return self.choice.checkpoint.iteration if self.run.is_known else folder.config.iters

    def val_loss(self, folder: AdapterFolder) -> float | None:
        """Return what was measured of these weights.

        The loss in the metadata belongs to the last weights, and counts if no loss was measured.  A negative loss, as in
        reinforcement learning, is not a validation loss.
        """
        if self.choice.val_loss is not None or not self.choice.is_last:
            loss = self.choice.val_loss
        else:
            loss = folder.metadata.final_val_loss
        return None if loss is None or loss < 0 else loss

    def findings(self, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
        """Yield what there is to say about the run and the choice."""
        yield from self.run.remarks
        yield from choice_findings(self.run, self.choice)
        yield from conflicts(self.run, self.choice, folder, submission)


def select_folder(path: Path, submission: Submission) -> tuple[Path, Training | None]:
    """Return the folder of the adapter that is meant; its run, too, where that is the output folder of a trainer.

    Raises:
        BadInputError: there is no such checkpoint, or the log is no trainer's state.
        MissingFileError, FormatError: the log cannot be read.
    """
    run = read_trainer_folder(path)
    if run is None:
        return path, None
    if (log := _log(submission)) is not None:
        if log.suffix != ".json":
            raise BadInputError(
                f"{path.name or path} is the output folder of a trainer, whose curve is in {STATE}",
                hint="leave out --log, or give such a file",
            )
        state = _given(log)
        said = conflict(state, run.curve, log.name)
        run = replace(
            run,
            curve=state.curve,
            best=state.best,
            log=log.name,
            remarks=(*run.remarks, *said),
            source="record" if run.record else "log",
        )
    choice = choose(run, submission.checkpoint)
    return path / choice.checkpoint.folder, Training(run, choice)


def select_run(folder: AdapterFolder, submission: Submission) -> Training:
    """Return the run of an adapter's own folder and the checkpoint that the user means.

    Raises:
        BadInputError: there is no such checkpoint, or no curve in the log.
        MissingFileError, FormatError: the log cannot be read.
    """
    log = _log(submission)
    remarks: list[Finding] = []
    own = state_in(folder.path, remarks)
    state = own if log is None else _given(log) if log.suffix == ".json" else None
    if state is None:
        run = read_run(folder, log)
        run = replace(run, remarks=(*run.remarks, *remarks))
        return Training(run, choose(run, submission.checkpoint))
    files = {name for name in (WEIGHTS, PEFT_WEIGHTS) if (folder.path / name).is_file()}
    run = run_of_state(folder.path, files, state, log.name if log is not None else STATE)
    if log is not None and own is not None:
        remarks += conflict(state, own.curve, log.name)
    run = replace(run, remarks=(*run.remarks, *remarks))
    wanted = submission.checkpoint
    if wanted in (None, "best", "last") and CHECKPOINT.fullmatch(run.name) and run.last_iteration is not None:
        wanted = str(run.last_iteration)  # who names a checkpoint's folder has chosen
    return Training(run, choose(run, wanted))


def _given(log: Path) -> TrainerState:
    try:
        return read_trainer_state(log)
    except FormatError as error:
        raise BadInputError(
            f"{log}: {error.message}", hint=f"give a trainer's {STATE}, or what mlx_lm.lora printed"
        ) from error


def _log(submission: Submission) -> Path | None:
    return Path(submission.log).expanduser() if submission.log is not None else None
