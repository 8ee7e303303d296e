"""`fusery export` and `import`: adapters as folders, for git, for hubs and for other registries."""

from __future__ import annotations

from pathlib import Path

import click

from fusery.registry.parsing import plural

from .session import Session, command
from .text import size

_FORMATS = ("mlx", "peft")


@command("export")
@click.argument("reference", metavar="REF")
@click.argument("destination", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="mlx-lm's form or that of Hugging Face's PEFT; default: as it was registered.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
def export_command(
    session: Session, reference: str, destination: Path, form: str | None, force: bool
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


@command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--base", metavar="NAME", help="Base model to register it on; default: the one it was on.")
def import_command(session: Session, folder: Path, base: str | None) -> None:
    """Take in a folder that export wrote.

    Digest, name, version and facts are the same again.  DIR is an adapters_NAME folder.
    """
    view = session.registry.exchange.import_folder(folder, base=base)

    def human() -> None:
        session.print(f"{'Imported' if view.created else 'Already there'}: {view['name']}")
        session.print(f"  on {view['base']}, adapter {view['digest'][:12]}")
        session.warn(view)

    session.emit(view, names=[view["name"]], human=human)
