"""`fusery lineage` and `audit`: where things come from, and whether everything is as recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .bulk import counting, jobs_option
from .session import Session, command

if TYPE_CHECKING:
    from fusery.registry.lineage import Graph

_FORMATS = ("tree", "json", "mermaid", "dot")
_SHOWN = 8
"""Names that are shown to people in one line."""


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
@click.option(
    "--repair", is_flag=True, help="Put back what is missing or damaged, and put damaged blobs aside."
)
@click.option(
    "--from",
    "copies",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --repair: look for copies in this folder, too; may be given again.",
)
@click.option("--all", "every", is_flag=True, help="Everything, as without REF.")
@jobs_option
@click.option("--chain", is_flag=True, help="Only the log: each entry against its hash and the one before.")
@click.option("--anew", is_flag=True, help="Also what an audit that was interrupted has found right.")
def audit_command(
    session: Session,
    references: tuple[str, ...],
    repair: bool,
    copies: tuple[Path, ...],
    every: bool,
    jobs: int | None,
    anew: bool,
    chain: bool,
) -> int:
    """Rehash and cross-check database, store and cache, and repair them.

    Without REF everything is checked, several blobs at a time; an audit that was interrupted is taken up where it
    stopped.  Exit code 0 when all is well or was repaired, 1 when a problem is left.

    --repair takes the bytes from another copy in the store, the cache, a bundle or a folder on record, or makes a
    fused model again by its recipe; digests must match.  Damaged blobs go to quarantine and are never deleted.
    """
    if copies and not repair:
        raise click.UsageError("--from goes with --repair.")
    if references and (every or anew or jobs is not None):
        raise click.UsageError("--all, --jobs and --anew are for an audit of everything, without REF.")
    if chain:
        if references or repair or every or anew or jobs is not None:
            raise click.UsageError("--chain follows the log, and nothing goes with it.")
        report = session.registry.audit_chain()
    elif references:
        report = session.registry.audit(references, repair=repair, copies=copies, say=session.say)
    else:
        with counting(session, "reading") as told:
            report = session.registry.audit_all(
                repair=repair, copies=copies, jobs=jobs, anew=anew, say=session.say, told=told
            )

    def human() -> None:
        counts = ", ".join(
            f"{count} {_plural(kind, count)}" for kind, count in report.checked.items() if count
        )
        session.print(f"Checked {counts or 'nothing'}.")
        for mended in report.repaired:
            session.print(
                f"  repaired: {mended.problem.code}: {mended.problem.subject}: from {mended.source}"
            )
            if mended.quarantined:
                session.print(f"    the damaged one is kept as {mended.quarantined}")
        for problem in report.problems:
            session.print(f"  {problem.code}: {problem.subject}: {problem.message}")
            if problem.dependants:
                session.print(f"    needed by: {_some(problem.dependants)}")
        if report.quarantined:
            session.print(f"  in quarantine: {_some(report.quarantined)}")
        for note in report.notes:
            session.print(f"  note: {note}")
        session.print(_verdict(len(report.problems), len(report.repaired)))
        if report.problems and not repair and not chain:
            session.say("Next: fusery audit --repair")

    session.emit(report.to_dict(), names=[problem.subject for problem in report.problems], human=human)
    return 0 if report.ok else 1


def _verdict(left: int, repaired: int) -> str:
    if repaired:
        return f"{repaired} repaired, {left or 'no'} {'problem' if left == 1 else 'problems'} left."
    if left == 0:
        return "No problem found."
    return "1 problem." if left == 1 else f"{left} problems."


def _some(names: Sequence[str]) -> str:
    """Return the first few names; --json has all."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _plural(kind: str, count: int) -> str:
    return {"fused": "fused models" if count > 1 else "fused model"}.get(
        kind, kind if count == 1 else f"{kind}s"
    )
