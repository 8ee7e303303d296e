"""`fusery lineage` and `audit`: where things come from, and whether everything is as recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Session, command

if TYPE_CHECKING:
    from fusery.registry.lineage import Graph

_FORMATS = ("tree", "json", "mermaid", "dot")


@command("lineage")
@click.argument("reference", metavar="REF")
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="tree", help="How to print it.")
def lineage_command(session: Session, reference: str, up: bool, down: bool, form: str) -> None:
    """Show what a thing was made from, and what was made from it.

    REF is an adapter, a base model by name, or a fused artifact by its digest or key.
    """
    both = up == down
    graph = session.registry.lineage(reference, up=up or both, down=down or both)
    session.json = session.json or form == "json"

    def human() -> None:
        from . import graphs

        if form == "tree":
            session.console.print(graphs.tree(graph))
        else:
            click.echo(graphs.mermaid(graph) if form == "mermaid" else graphs.dot(graph))

    session.emit(graph.to_dict(), names=_names(graph), human=human)


def _names(graph: Graph) -> list[str]:
    return [node.id for node in graph.nodes.values()]


@command("audit")
@click.argument("references", metavar="[REF]...", nargs=-1)
def audit_command(session: Session, references: tuple[str, ...]) -> int:
    """Rehash and cross-check database, store and cache.

    Without REF everything is checked.  Exit code 1 when a problem was found.
    """
    report = session.registry.audit(references, say=session.say)

    def human() -> None:
        counts = ", ".join(
            f"{count} {_plural(kind, count)}" for kind, count in report.checked.items() if count
        )
        session.print(f"Checked {counts or 'nothing'}.")
        for problem in report.problems:
            session.print(f"  {problem.code}: {problem.subject}: {problem.message}")
        for note in report.notes:
            session.print(f"  note: {note}")
        session.print("No problem found." if report.ok else f"{len(report.problems)} problems.")

    session.emit(report.to_dict(), names=[problem.subject for problem in report.problems], human=human)
    return 0 if report.ok else 1


def _plural(kind: str, count: int) -> str:
    return {"fused": "fused models" if count > 1 else "fused model"}.get(
        kind, kind if count == 1 else f"{kind}s"
    )
