"""`fusery train`: mlx-lm's trainer with a record of the run, and its best checkpoint registered."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.storage.errors import typed

from .adapters import CHECKPOINT, declared_options, print_registered
from .command import command
from .options import TAGS
from .session import Session

if TYPE_CHECKING:
    from fusery.registry.recording.callback import RecordRun
    from fusery.registry.recording.trainer import Way


@command(
    "train",
    rare="strict version parent",
    document="recording.trainer:TrainingResult",
    arguments=("-- ARGUMENTS", click.UNPROCESSED),
    **declared_options(("trained_on", "task", "version")),
    checkpoint=CHECKPOINT,
    **declared_options(("dataset", "parent")),
    tags=TAGS,
    **declared_options(("note",)),
    base="NAME: Register the result on this base model.",
    strict=": Treat warnings as errors.",
    through="--qat: Train through the base model's quantiser, so that `fuse --as keep` loses nothing.",
    grouped="--qa-lora: Train a QA-LoRA, which `fuse --as keep` adds to the biases of the base model's groups.",
)
def train(
    session: Session,
    arguments: tuple[str, ...] = (),
    *,
    base: str | None = None,
    strict: bool = False,
    through: bool = False,
    grouped: bool = False,
    **facts: Any,
) -> int:
    """Train with mlx_lm.lora, and register the best checkpoint.

    ARGUMENTS are those of mlx_lm.lora, and so are the output and the exit code. The run is recorded in fusery_run.json in
    its folder. --base trains that model (or the one of --trained-on) unless ARGUMENTS name another, and registers the
    result. Declared values that would be refused at the end are refused before training.

    Example: fusery train --base BASE --task lessons -- --train --data data
    """
    from fusery.registry.recording.trainer import train as trained_by
    from fusery.registry.registration.register import require_data

    if base is None and (alone := next((name for name, on in {"strict": strict, **facts}.items() if on), "")):
        option = {"tags": "tag"}.get(alone, alone).replace("_", "-")
        raise click.UsageError(f"--{option} is about registering: give --base too.")
    if through and grouped:
        raise click.UsageError("--qat and --qa-lora are two ways to train: give one of them.")
    way: Way | None = "qat" if through else "qa-lora" if grouped else None
    if way and facts.get("trained_on") not in (None, base):
        raise click.UsageError(f"--{way} trains on --base itself: leave out --trained-on.")
    # The trainer's own arguments, or its configuration, may name the model.
    names_model = any(word.partition("=")[0] in ("--model", "--config", "-c") for word in arguments)
    if way and base is None and not names_model:
        raise click.UsageError(f"--{way} trains on a quantised base, and none is named: give --base NAME.")
    trained_on = facts.get("trained_on") or base
    model = session.registry.bases.to_train(trained_on) if trained_on is not None else None
    folders: list[str] = []

    def ready(args: Any) -> None:
        require_data(args)
        if base is not None and args.train:
            declared: Mapping[str, Any] = {"model": str(args.model), "iterations": args.iters, **facts}
            require_registrable = session.registry.adapters.require_registrable
            require_registrable(str(args.adapter_path), same=way is not None, base=base, **declared)
        folders.extend([args.adapter_path] * bool(args.train))

    with contextlib.redirect_stdout(sys.stderr if session.json or session.quiet else sys.stdout):
        try:
            code, run = trained_by(arguments, ready=ready, base=model, way=way)
        except KeyboardInterrupt:
            for folder in folders:
                if any(Path(folder).glob("*adapters.safetensors")):
                    session.say(f"Next: fusery register {typed(folder)} --base NAME --task T")
            raise
    if code == 0 and run is not None and run.is_recorded:
        _finish(session, run, base, strict=strict, **facts)
    return code


def _finish(session: Session, run: RecordRun, base: str | None, **facts: Any) -> None:
    from fusery.registry.recording.trainer import TrainingResult

    made = None
    if base is not None:
        made = session.registry.adapters.register(run.folder, base=base, **facts)
    result = TrainingResult(
        folder=run.folder, state=run.record.state, seconds=run.record.seconds, registered=made
    )

    def human() -> None:
        if made is not None:
            print_registered(session, made)
        else:
            session.say(f"Recorded. Next: fusery register {typed(run.folder)} --base NAME --task T")

    session.emit(result, names=[made.name if made else str(run.folder)], human=human)
