"""`fusery lineage`: where things come from, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from . import graphs
from .session import LocalPath, Session, command
from .text import one_line
from .written import write_document

if TYPE_CHECKING:
    from fusery.registry.records.graph import Graph

_FORMATS = ("tree", "json", "mermaid", "dot", "svg", "prov", "openlineage")
_ENDINGS = {".json": "json", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}
_DOCUMENTS = ("prov", "openlineage")
"""Formats that tell of how each thing was made, and so need all that it was made from."""

_TOGETHER = 500
"""Lines that are printed at once."""


class _Ways(TypedDict):
    up: bool
    down: bool


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
@click.option("--complete", is_flag=True, help="All there is, not just the nearest and newest of each kind.")
@click.option("-o", "--output", type=LocalPath(path_type=Path), metavar="FILE", help="Write it to a file.")
@click.option("--force", is_flag=True, help="With -o: replace the file.")
def lineage_command(
    session: Session,
    reference: str,
    up: bool,
    down: bool,
    form: str | None,
    complete: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Show what a thing was made from, and what was made from it.

    REF is an adapter, a base model by name, a fused artifact by its digest or key, a bundle by its digest or place, or
    dataset:NAME.  Aliases that hold something and places where it runs or ran are shown as well, and what is yanked is
    marked.  svg is a picture, prov the W3C's PROV-JSON, openlineage one run event a line.

    Of more than 100 adapters, fused models, bundles, aliases or places that were made from it, the nearest and newest
    are shown, and how many more there are.
    """
    if force and output is None:
        raise click.UsageError("--force goes with -o.")
    chosen = form or (_ENDINGS.get(output.suffix.lower(), "tree") if output else "tree")
    ways = _Ways(up=up or not down, down=down or not up)
    session.json = session.json or (chosen == "json" and output is None)
    if complete and (chosen in graphs.STREAMED or session.json or session.quiet) and output is None:
        _stream(session, reference, chosen, ways)
    elif complete and chosen in graphs.STREAMED and output is not None:
        with session.registry.provenance.whole_lineage(reference, **ways) as whole:
            pieces = _pieces(graphs.lines(whole, chosen))
            write_document(session, output, pieces, form=chosen, force=force)
    else:
        from fusery.registry.provenance import LIMIT

        graph = session.registry.provenance.lineage(
            reference, **ways, inputs=chosen in _DOCUMENTS, limit=None if complete else LIMIT
        )
        _emit(session, graph, chosen, output, force)


def _stream(session: Session, reference: str, form: str, ways: _Ways) -> None:
    """Print all of it as it is read."""
    with session.registry.provenance.whole_lineage(reference, **ways) as whole:
        if session.json:
            from fusery.storage.secrets import masked

            for piece in _pieces(graphs.document(whole)):
                click.echo(masked(piece) if ":/" in piece else piece, nl=False)
            return
        printed = (one_line(node.id) for node in whole.nodes) if session.quiet else graphs.lines(whole, form)
        for piece in _pieces(printed):
            click.echo(piece, nl=False)


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines many at a time: one after the other they take longer to print than to make."""
    waiting = iter(lines)
    while batch := list(islice(waiting, _TOGETHER)):
        yield "".join(f"{line}\n" for line in batch)


def _emit(session: Session, graph: Graph, form: str, output: Path | None, force: bool) -> None:
    if output is not None:
        write_document(session, output, graphs.written(graph, form), form=form, force=force)
    else:
        # A narrow terminal breaks lines by itself, if need be.
        session.emit(
            graph,
            names=[node.id for node in graph.nodes],
            human=lambda: click.echo(graphs.written(graph, form), nl=False),
        )
    if graph.more and not session.json and (form != "tree" or session.quiet):
        # Who takes names or a file does not see it there.
        click.echo(f"Note: {graph.more}: --complete shows all", err=True)
