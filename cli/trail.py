"""`fusery lineage`: where things come from, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import Session, command

if TYPE_CHECKING:
    from fusery.registry.provenance import Graph

_FORMATS = ("tree", "json", "mermaid", "dot", "svg", "prov", "openlineage")
_ENDINGS = {".json": "json", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}
_DOCUMENTS = ("prov", "openlineage")
"""Formats that tell of how each thing was made, and so need all that it was made from."""


@command("lineage")
@click.argument("reference", metavar="REF")
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it, and where that went.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="How to print it; default: tree, or by FILE's ending.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it to a file.")
@click.option("--force", is_flag=True, help="With -o: replace the file.")
def lineage_command(
    session: Session,
    reference: str,
    up: bool,
    down: bool,
    form: str | None,
    output: Path | None,
    force: bool,
) -> None:
    """Show what a thing was made from, and what was made from it.

    REF is an adapter, a base model by name, a fused artifact by its digest or key, a bundle by its digest or place, or
    dataset:NAME.  Aliases that hold something and places where it runs or ran are shown as well, and what is yanked is
    marked.  svg is a picture, prov the W3C's PROV-JSON, openlineage one run event a line.
    """
    if force and output is None:
        raise click.UsageError("--force goes with -o.")
    chosen = form or (_ENDINGS.get(output.suffix.lower(), "tree") if output else "tree")
    both = up == down
    graph = session.registry.provenance.lineage(
        reference, up=up or both, down=down or both, complete=chosen in _DOCUMENTS
    )
    if output is not None:
        from . import graphs
        from .written import write_document

        write_document(session, output, graphs.written(graph, chosen), form=chosen, force=force)
        return
    session.json = session.json or chosen == "json"

    def human() -> None:
        from . import graphs

        click.echo(
            graphs.written(graph, chosen), nl=False
        )  # a narrow terminal breaks lines by itself, if need be

    session.emit(graph, names=_names(graph), human=human)


def _names(graph: Graph) -> list[str]:
    return [node.id for node in graph.nodes]
