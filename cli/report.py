"""`fusery report`: what is on record, as one page for people who do not use a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .session import LocalPath, Session, command

if TYPE_CHECKING:
    from fusery.registry.reporting import Written


@command("report")
@click.argument("subject", metavar="[TASK|REF]", required=False)
@click.option(
    "--html",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="The file to write; needed unless --json prints what would be in it.",
)
@click.option("--force", is_flag=True, help="With --html: replace the file.")
@click.option("--audit", is_flag=True, help="Read all bytes, too, and not the log and the records alone.")
def report_command(session: Session, subject: str | None, html: Path | None, force: bool, audit: bool) -> int:
    """Write what is on record as one HTML page.

    It is about a task, an adapter or everything.  At its top the page says which version holds each alias and why.  It
    has versions and their validation loss, learning curves, who held which alias when, rules, approvals and refusals,
    lineage, fidelity, signatures, deployments, withdrawals, and what an audit of the log and the records found.  It is
    one file that loads nothing, for screen, phone and paper.  Without TASK or REF it is about the whole registry.

    Exit code 1 when the page was written and the audit in it found a problem.
    """
    if html is None and not session.json:
        raise click.UsageError("--html FILE is needed, or --json.\nHint: fusery report --html report.html")
    if force and html is None:
        raise click.UsageError("--force goes with --html.")
    written = session.registry.provenance.report(
        subject, html=html, force=force, audit=audit, reporter=session.reporter()
    )
    names = [written.path] if written.path else []
    session.emit(written, names=names, human=lambda: _tell(session, written))
    return 0 if written.ok else 1


def _tell(session: Session, written: Written) -> None:
    session.print(f"Wrote {written.path}: {size(written.bytes or 0)}.")
    if not written.ok:
        count = written.audit.problems_total
        session.say(f"The audit found {plural(count, 'problem')}, and the page says so.")
        session.say("Next: fusery audit")
