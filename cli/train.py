"""`fusery train`: mlx-lm's trainer with a record of the run, and its best checkpoint registered."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.storage.shell import typed

from .adapters import TAGS, option_of, options_of, print_registered
from .session import Session, command

if TYPE_CHECKING:
    from fusery.registry.recording.callback import RecordRun
    from fusery.registry.recording.quantized_training import Way


@command("train")
@click.option("--base", metavar="NAME", help="Register the result on this base model.")
@options_of(("trained_on", "task", "version"))
@click.option(
    "--checkpoint", metavar="best|last|ITER", help="Which weights to register; default: the best ones."
)
@options_of(("dataset", "parent"))
@TAGS
@option_of("note")
@click.option("--strict", is_flag=True, help="Refuse what only gives warnings, too.")
@click.option(
    "--qat",
    "through",
    is_flag=True,
    help="Train through the base's quantiser, so that a fuse at its size loses nothing.",
)
@click.option(
    "--qa-lora",
    "grouped",
    is_flag=True,
    help="Train an update that a fuse at the base's size takes up in its biases.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ARGUMENTS")
def train_command(
    session: Session,
    arguments: tuple[str, ...],
    base: str | None,
    strict: bool,
    through: bool,
    grouped: bool,
    **facts: Any,
) -> int:
    """Train with mlx_lm.lora, and register the best checkpoint.

    ARGUMENTS are those of mlx_lm.lora, and so are the output and the exit code.  The run is recorded in
    fusery_run.json in its folder while it goes on: arguments, curve, digest of the data, duration, machine, git commit.
    With --base that model is trained (or the one of --trained-on), unless ARGUMENTS name another, and the result
    registered at the end; what would be refused then is refused before training.  With --qat each layer computes with
    quantise(W + BA), and adapter_config.json says so: `keep` writes that to the bit.  With --qa-lora the update is
    constant within the base's groups: `keep` leaves codes and scales as they are.
    """
    from fusery.registry.recording.trainer import train
    from fusery.registry.registration.readiness import require_data

    if base is None:
        _require_base_for(strict=strict, **facts)
    if through and grouped:
        raise click.UsageError("--qat and --qa-lora are two ways to train: give one of them.")
    way: Way | None = "qat" if through else "qa-lora" if grouped else None
    if way and facts.get("trained_on") not in (None, base):
        raise click.UsageError(
            f"--{way} trains on the quantised base that it is fused onto: leave out --trained-on."
        )
    if way and base is None and not _names_model(arguments):
        raise click.UsageError(f"--{way} trains on a quantised base, and none is named: give --base NAME.")
    trained_on = facts.get("trained_on") or base
    model = session.registry.bases.to_train(trained_on) if trained_on is not None else None
    folders: list[str] = []

    def ready(args: Any) -> None:
        require_data(args)
        if base is not None and args.train:
            session.registry.adapters.require_registrable(
                str(args.adapter_path),
                model=str(args.model),
                iterations=args.iters,
                same=way is not None,
                base=base,
                **facts,
            )
        folders.extend([args.adapter_path] * bool(args.train))

    with contextlib.redirect_stdout(sys.stderr if session.json or session.quiet else sys.stdout):
        try:
            trained = train(arguments, ready=ready, base=model, way=way)
        except KeyboardInterrupt:
            for folder in filter(_has_weights, folders):
                session.say(
                    f"What was saved can be registered: fusery register {typed(folder)} --base NAME --task T"
                )
            raise
    if trained.code == 0 and trained.run is not None and trained.run.is_recorded:
        _finish(session, trained.run, base, strict=strict, **facts)
    return trained.code


def _require_base_for(**facts: Any) -> None:
    for name, value in facts.items():
        if value:
            option = {"tags": "tag"}.get(name, name).replace("_", "-")
            raise click.UsageError(f"--{option} is about registering: give --base too.")


def _names_model(arguments: tuple[str, ...]) -> bool:
    """Tell whether the trainer's own arguments, or its configuration, may name what is trained."""
    return any(word.partition("=")[0] in ("--model", "--config", "-c") for word in arguments)


def _has_weights(folder: str) -> bool:
    return any(Path(folder).glob("*adapters.safetensors"))


def _finish(session: Session, run: RecordRun, base: str | None, **facts: Any) -> None:
    """Register what was trained, if that was asked for, and print what there is now."""
    from fusery.registry.recording.result import TrainingResult

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
            session.say(
                f"Recorded in {run.folder}. Next: fusery register {typed(run.folder)} --base NAME --task T"
            )

    session.emit(result, names=[made.name if made else str(run.folder)], human=human)
