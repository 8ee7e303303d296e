"""Recording a run as it happens, from within mlx-lm's trainer.

from fusery.registry import RecordRun

with RecordRun("adapters", arguments=args, data="data") as run:
    train(model, optimizer, train_set, valid_set, args=training_args, training_callback=run)
run.register(base="SmolLM2-135M-Instruct", task="course_rec")
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from fusery.storage.digest import digest_file
from fusery.storage.errors import StorageError
from fusery.storage.failures import os_failures
from fusery.storage.publishing import make_folders

from ..admission.submission import Facts
from ..registration.training_record import (
    RecordedData,
    RecordedPoint,
    RecordedStart,
    begin_record,
    read_data,
    write_record,
)

if TYPE_CHECKING:
    from ..api.registry import Registry
    from ..records.adapter import Registered

_SHARE = 0.02  # of the time may go into writing the record during a run
MAX_POINTS = 50_000  # a record with more is thinned out, so that it can still be read back

_NUMBERS = ("train_loss", "val_loss", "learning_rate", "trained_tokens")


class RecordRun:
    """A training callback for mlx-lm (`mlx_lm.tuner.callbacks.TrainingCallback`) that keeps `fusery_run.json` up to date.

    As a context manager it records how the run ended: `finished`, or `stopped` by an exception or Ctrl-C; a killed run
    stays `running`.  `mx.array` can drop an interrupt while it reads a NumPy array; then the run stops at its next report.
    In distributed training only rank 0 records.

    Args:
        folder: the adapter's folder; created if it does not exist.
        arguments: of the run: a mapping, a namespace or a dataclass, such as `mlx_lm.lora`'s `args`.
        data: the data folder, or the hub's name of a dataset; default: `data` of the arguments.
        examples: number of training examples, if the data are not a local folder.
        wrapped: another callback of mlx-lm's trainer that receives everything too.
        working_folder: whose git commit is recorded.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        arguments: object = None,
        data: str | Path | None = None,
        examples: int | None = None,
        wrapped: Any = None,
        working_folder: str | Path = ".",
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._wrapped = wrapped
        mlx = sys.modules.get("mlx.core")
        # The only process of the run, or rank 0, records.
        self.is_recorded = mlx is None or int(mlx.distributed.init().rank()) == 0
        self._began = time.monotonic()
        self._written, self._cost = -math.inf, 0.0
        self._offset: int | None = None
        self._interrupt: BaseException | None = None
        self._handlers: dict[int, tuple[Any, Any]] = {}
        if not self.is_recorded:
            return
        run_arguments = plain_arguments(arguments)
        source = data if data is not None else run_arguments.get("data")
        self.record = begin_record(
            run_arguments,
            _dataset(source, examples),
            resumed=_resumed(run_arguments.get("resume_adapter_file")),
            folder=Path(working_folder),
        )
        make_folders(self.folder)
        self._write()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only that one may set a handler
            for number in map(int, (signal.SIGINT, signal.SIGTERM)):
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler, partial(self._note, handler)
                    signal.signal(number, self._handlers[number][1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, (handler, ours) in self._handlers.items():
            if signal.getsignal(number) is ours:  # unless a handler replaced it
                signal.signal(number, handler)
        self.finish(stopped=kind is not None)

    def on_train_loss_report(self, train_info: dict[str, object]) -> None:
        """Record a report of the last steps."""
        if self.is_recorded:
            memory = train_info.get("peak_memory")
            if isinstance(memory, int | float) and math.isfinite(memory):
                self.record.peak_memory = round(memory * 1e9)
            self._add(int(cast(Any, train_info["iteration"])), train_info)
        self._pass_on("on_train_loss_report", train_info)

    def on_val_loss_report(self, val_info: dict[str, object]) -> None:
        """Record a validation loss."""
        if self.is_recorded:
            iteration = int(cast(Any, val_info["iteration"]))
            if self._offset is None:
                # Since 0.25 mlx-lm tells callbacks the steps that were done, from 0; its output counts from 1.
                self._offset = 1 if iteration == 0 else 0
            self._add(iteration + self._offset, val_info, now=True)
        self._pass_on("on_val_loss_report", val_info)

    def finish(self, *, stopped: bool = False) -> None:
        """Write the record for the last time; `stopped` if the run ended before its last iteration."""
        if self.is_recorded and self.record.state == "running":
            self.record.state = "stopped" if stopped else "finished"
            self._write()

    def register(
        self, *, registry: Registry | None = None, strict: bool = False, **facts: Unpack[Facts]
    ) -> Registered:
        """Register the run's best checkpoint; `facts` are arguments of `Registry.adapters.register`, `base` defaults to the run's."""
        self.finish()
        return register_run(self.folder, registry, strict=strict, facts=facts)

    def _note(self, handler: Callable[..., object], number: int, frame: object) -> None:
        try:
            handler(number, frame)
        except BaseException as stop:
            self._interrupt = stop
            raise

    def _pass_on(self, report: str, info: dict[str, object]) -> None:
        if self._wrapped is not None:
            getattr(self._wrapped, report)(info)
        if self._interrupt is not None:
            raise self._interrupt

    def _add(self, iteration: int, metrics: Mapping[str, Any], *, now: bool = False) -> None:
        # An array of mlx or NumPy with one element has `item`.
        given = {name: metrics[name] for name in _NUMBERS if metrics.get(name) is not None}
        values = {name: float(one.item() if hasattr(one, "item") else one) for name, one in given.items()}
        sound = {name: value for name, value in values.items() if math.isfinite(value)}
        if len(sound) < len(values):
            self.record.not_finite.append(iteration)
        if "trained_tokens" in sound:
            sound["trained_tokens"] = int(sound["trained_tokens"])
        self.record.curve.append(RecordedPoint(iteration=iteration, **sound))  # type: ignore[arg-type]
        if len(self.record.curve) > MAX_POINTS:
            self.record.curve = _thinned(self.record.curve)
        if now or time.monotonic() - self._written > self._cost / _SHARE:
            # A disk that is full for a while must not end hours of training; `finish` reports it.
            with contextlib.suppress(StorageError):
                self._write()

    def _write(self) -> None:
        begun = time.monotonic()
        self.record.seconds = round(begun - self._began, 3)
        write_record(self.folder, self.record)
        self._written = time.monotonic()
        self._cost = self._written - begun


def register_run(folder: Path, registry: Registry | None, *, strict: bool, facts: Facts) -> Registered:
    """Register the best checkpoint of a run; without a registry, in that of the environment."""
    from ..api.registry import Registry

    if registry is not None:
        return registry.adapters.register(folder, strict=strict, **facts)
    with Registry.open() as opened:
        return opened.adapters.register(folder, strict=strict, **facts)


def _thinned(points: list[RecordedPoint]) -> list[RecordedPoint]:
    """Leave out every other training loss; every validation stays, and so do the last few of all."""
    older, newest = points[:-2], points[-2:]
    return [p for number, p in enumerate(older) if p.val_loss is not None or number % 2 == 0] + newest


def plain_arguments(arguments: object) -> dict[str, object]:
    """Return arguments as plain JSON values; what JSON does not have becomes text."""
    if arguments is None:
        return {}
    if dataclasses.is_dataclass(arguments) and not isinstance(arguments, type):
        argument_values: Mapping[str, Any] = dataclasses.asdict(arguments)
    elif isinstance(arguments, Namespace | SimpleNamespace):
        argument_values = vars(arguments)
    elif isinstance(arguments, Mapping):
        argument_values = arguments
    else:
        kind = type(arguments).__name__
        raise TypeError(f"arguments must be a mapping, a namespace or a dataclass, not {kind}")
    plain: dict[str, object] = json.loads(json.dumps(dict(argument_values), default=str), parse_constant=str)
    return plain


def _resumed(source: object) -> RecordedStart | None:
    if not isinstance(source, str) or not Path(source).expanduser().is_file():
        return None  # the trainer says so
    with os_failures(f"read {source}", near=Path(source)):
        digest, _ = digest_file(Path(source).expanduser())
    return RecordedStart(path=source[:500], sha256=digest)


def _dataset(source: object, examples: int | None) -> RecordedData | None:
    if source is None:
        return RecordedData(examples=examples) if examples is not None else None
    name, recorded_data = str(source), read_data(Path(str(source)).expanduser())
    if recorded_data is None:
        return RecordedData(name=name[:500], examples=examples)
    return recorded_data.model_copy(
        update={"name": name[:500], "examples": recorded_data.examples or examples}
    )
