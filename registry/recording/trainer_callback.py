"""Recording a run of transformers' `Trainer`, or TRL's: `Trainer(..., callbacks=[FuseryCallback(task="course_rec")])`."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fusery.storage.errors import FuseryError, StorageError
from fusery.storage.secrets import redact

from ..adapters import STATE
from ..admission.submission import Facts, Submission
from ..registration.training_record import RecordedData, RunRecord, begin_record, write_record
from .callback import plain_arguments, register_run

if TYPE_CHECKING:
    from ..api.registry import Registry
    from ..records.adapter import Registered

_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate")
_MOST_EXAMPLES = 2**31 - 1


class FuseryCallback(TrainerCallback):  # type: ignore[misc]  # transformers is optional, and is not read by mypy
    """A callback for transformers' `Trainer` that records the run and registers its best checkpoint when it ends.

    The record is `fusery_run.json` in the output folder.  If the trainer saves no checkpoint, the callback saves the last
    step.  A refused adapter is a warning and `error`, so that the trainer goes on to save the weights; a registered one is
    `adapter`.  `facts` are the arguments of `Registry.adapters.register`.
    """

    def __init__(
        self, *, registry: Registry | None = None, strict: bool = False, **facts: Unpack[Facts]
    ) -> None:
        Submission.of(facts)  # what cannot be said is refused now, and not after the last step
        self.adapter: Registered | None = None
        self.error: Exception | None = None
        self._saved = False
        self._registry, self._strict, self._facts = registry, strict, facts
        self._record: RunRecord | None = None
        self._began = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **around: object
    ) -> None:
        """Begin the record; of several processes one has it."""
        if not state.is_world_process_zero:
            return
        self._began, self._saved, self.adapter, self.error = time.monotonic(), False, None, None
        try:
            data = getattr(around.get("train_dataloader"), "dataset", None)
            arguments = plain_arguments(args.to_dict())
            self._record = begin_record(arguments, _dataset(data), packages=_PACKAGES)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the training is worth more
            self._warn("does not record this run", error)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **around: object
    ) -> None:
        """Write the record beside the checkpoint that was just saved."""
        self._saved = True
        self._write(Path(args.output_dir))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **around: object
    ) -> None:
        """Register the best checkpoint, or the requested one."""
        if self._record is None:
            return
        out = Path(args.output_dir)
        stopped = state.max_steps > 0 and state.global_step < state.max_steps
        self._record.state = "stopped" if stopped else "finished"
        try:
            place = out if self._saved else _save(around.get("model"), out, state)
            self._write(place)
            self.adapter = register_run(place, self._registry, strict=self._strict, facts=self._facts)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the trainer goes on to save the weights
            self.error = error
            self._warn("registered nothing of this run", error)

    def _warn(self, what: str, error: Exception) -> None:
        why = error.message if isinstance(error, FuseryError) else f"{type(error).__name__}: {error}"
        hint = f" ({error.hint})" if isinstance(error, FuseryError) and error.hint else ""
        warnings.warn(redact(f"fusery {what}: {why}{hint}"), stacklevel=3)

    def _write(self, folder: Path) -> None:
        if self._record is None:
            return
        self._record.seconds = round(time.monotonic() - self._began, 3)
        try:
            write_record(folder, self._record)
        except StorageError as error:
            # The disk may be full for a while only.
            self._warn("could not write its record of this run", error)


def _save(model: Any, out: Path, state: TrainerState) -> Path:
    """Save the adapter where the trainer saved none, as the checkpoint that it would have been."""
    place = out / f"checkpoint-{state.global_step}"
    model.save_pretrained(str(place))
    state.save_to_json(str(place / STATE))
    return place


def _dataset(data: Any) -> RecordedData | None:
    """Return what `datasets` says of a training set; of another only how many examples it has."""
    if data is None:
        return None
    info = getattr(data, "info", None)
    words = [getattr(info, name, None) for name in ("dataset_name", "config_name")]
    name_parts = [word for word in words if isinstance(word, str) and word and word != "default"]
    split, fingerprint = getattr(data, "split", None), getattr(data, "_fingerprint", None)
    name = "/".join(name_parts) + (f":{split}" if name_parts and split is not None else "")
    examples = len(data) if hasattr(data, "__len__") else None
    return RecordedData(
        name=name[:500] or None,
        fingerprint=fingerprint if isinstance(fingerprint, str) and fingerprint.isalnum() else None,
        examples=examples if examples is not None and examples <= _MOST_EXAMPLES else None,
    )
