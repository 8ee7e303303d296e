"""`fusery export` and `import`: adapters as folders, for git, for hubs and for other registries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .plugged import PluggedChoice
from .session import LocalPath, Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.adapters.render import Form

_FORMATS = ("mlx", "peft")
_TRACKERS = ("mlflow", "wandb")


def _source_names() -> list[str]:
    from fusery.registry.exchange.import_runs import source_names

    return source_names()


@command("export")
@click.argument("reference", metavar="REF")
@click.argument("destination", metavar="DIR", type=LocalPath(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="mlx-lm's form or that of Hugging Face's PEFT; default: as it was registered.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
def export_command(
    session: Session, reference: str, destination: Path, form: Form | None, force: bool
) -> None:
    """Write an adapter's folder, ready for git.

    It holds weights, configuration, metadata and a model card.  The folder is called adapters_NAME and is written into
    DIR.
    """
    exported = session.registry.exchange.export(
        reference, destination, form=form, force=force, reporter=session.reporter()
    )

    def human() -> None:
        total = sum(file.size for file in exported.files)
        session.print(f"{'Already there' if exported.existed else 'Wrote'}: {exported.path}")
        session.print(
            f"  {exported.format}{' (rendered)' if exported.rendered else ''}, {plural(len(exported.files), 'file')}, "
            f"{size(total)}, adapter {exported.digest[:12]}"
        )
        session.warn(exported)

    session.emit(exported, names=[str(exported.path)], human=human)


@command("import", table=True)
@click.argument("source", metavar="DIR|URI|PROJECT")
@click.option(
    "--from",
    "tracker",
    type=PluggedChoice(_TRACKERS, _source_names),
    help="Take the adapters of a tracker's runs: mlflow, wandb, or a plugin's.",
)
@click.option(
    "--base", metavar="NAME", help="Base model to register on; default: the one that the files name."
)
@click.option("--task", metavar="TASK", help="Of a tracker's runs; default: as their project.")
@click.option("--experiment", "experiments", metavar="NAME", multiple=True, help="Only its runs (MLflow).")
@click.option("--run", "runs", metavar="ID", multiple=True, help="Only this run.")
@click.option("--metric", "metrics", metavar="GLOB", multiple=True, help="Record these as evaluations.")
@click.option("--dry-run", is_flag=True, help="Show a tracker's adapters only; nothing is written.")
@click.pass_context
def import_command(
    context: click.Context,
    /,
    session: Session,
    source: str,
    tracker: str | None,
    base: str | None,
    **options: Any,
) -> None:
    """Take in what export wrote, or a tracker's adapters.

    Of a folder that export wrote, DIR, digest, name, version and facts are the same again.

    With --from mlflow, URI is where MLflow tracks: a server, sqlite:///FILE, or a folder. With --from wandb, PROJECT is
    ENTITY/PROJECT. Each adapter among the artifacts of a run is registered, with the run's losses, arguments, dataset
    and commit. One that is refused keeps no other out.
    """
    if tracker is None:
        if any(options.values()):
            raise click.UsageError("--task, --experiment, --run, --metric and --dry-run go with --from.")
        _import_folder(session, Path(source), base)
    elif options["experiments"] and options["runs"]:
        raise click.UsageError("--experiment and --run are one or the other.")
    else:
        context.exit(_import_runs(session, source, tracker, base, options))


def _import_folder(session: Session, folder: Path, base: str | None) -> None:
    view = session.registry.exchange.import_folder(folder, base=base)

    def human() -> None:
        session.print(f"{'Imported' if view.created else 'Already there'}: {view['name']}")
        session.print(f"  on {view['base']}, adapter {view['digest'][:12]}")
        session.warn(view)

    session.emit(view, names=[view["name"]], human=human)


def _import_runs(
    session: Session, source: str, tracker: str, base: str | None, options: dict[str, Any]
) -> int:
    """Import a tracker's runs; return the exit code: 1 where one was refused."""
    done = session.registry.exchange.import_runs(
        source, tracker, base=base, reporter=session.reporter(), **options
    )
    failed = [each for each in done if each.error]

    def human() -> None:
        table = session.table(
            "run", "adapter", "is", "experiment", "artifacts", free=("experiment", "artifacts")
        )
        for each in done:
            state = (
                "new" if each.created else "known" if each.adapter else "refused" if each.error else "there"
            )
            table.add_row(
                cell(each.run_name), each.adapter or "-", state, cell(each.project), cell(each.path or ".")
            )
        session.print_table(table)
        for each in failed:
            session.print(f"{cell(each.run_name)}: {cell(each.error or '')}")
            if each.hint:
                session.hint(cell(each.hint), "  ")

    session.emit(done, names=[each.adapter for each in done if each.adapter], human=human)
    return 1 if failed else 0
