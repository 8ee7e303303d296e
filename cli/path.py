"""`fusery path`: where the files of something are on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Session, command

if TYPE_CHECKING:
    from fusery.registry.adapters.render import Form


@command("path")
@click.argument("reference", metavar="REF")
@click.option(
    "--format", "form", type=click.Choice(["mlx", "peft"]), help="Of an adapter's files; default: mlx."
)
def path_command(session: Session, reference: str, form: Form | None) -> None:
    """Print a folder of this machine with REF's files, to be loaded.

    REF is an adapter, a base model, or a fused model by its key. The folder is in the cache, where fused models are, and
    is not to be written to: mlx_lm.generate --model "$(fusery path BASE)" --adapter-path "$(fusery path REF)"
    """
    found = session.registry.folder(reference, format=form)
    session.emit(found, names=[str(found.path)], human=lambda: session.print(str(found.path)))
    session.warn(found)
