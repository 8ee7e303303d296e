"""`fusery audit`: is everything as recorded?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.parsing import plural

from .command import command
from .options import LocalPath
from .session import Session

if TYPE_CHECKING:
    from fusery.registry.upkeep.report import Report

_NAMES = {"fused": "fused model"}
_SHOWN = 8  # names that are shown to people in one line


@command(
    "audit",
    document="upkeep.report:Report",
    needs={"keys": "anchors", "copies": "repair"},
    excludes=("chain", "again", "repair"),
    references="[REF]...",
    copies=(
        "--from DIR: With --repair: also look for copies in this folder; repeatable.",
        LocalPath(exists=True, file_okay=False, path_type=Path),
    ),
    chain=": Check only the hash chain of the log.",
    anchors="--anchor FILE: Check that the log still has the entry of this anchor; not with REF; repeatable.",
    keys="--key KEY.pub: With --anchor: accept signatures of this key; repeatable.",
    again="--rebuild: Only make fused models again by their recipes, and compare them.",
)
def audit(
    session: Session,
    references: tuple[str, ...] = (),
    *,
    repair: bool = False,
    copies: tuple[Path, ...] = (),
    jobs: int | None = None,
    chain: bool = False,
    again: bool = False,
    anchors: tuple[Path, ...] = (),
    keys: tuple[Path, ...] = (),
) -> int:
    """Audit database, store and cache; repair damaged data.

    Without REF, audit everything. --repair restores the bytes from another copy, or makes a fused model again; digests
    must match. Exit codes: 0 no problem is left, 1 a problem is left, 3 --rebuild cannot make a model on this machine.

    Example: fusery audit --repair --from DIR
    """
    whole = {"--chain": chain, "--anchor": anchors, "--jobs": jobs is not None}
    if (references or again) and (option := next((name for name, is_given in whole.items() if is_given), "")):
        raise click.UsageError(f"{option} is for an audit of everything: leave out REF and --rebuild.")
    if chain:
        report = session.registry.upkeep.audit_chain(anchors=anchors, keys=keys)
    elif again:
        report = session.registry.upkeep.audit_rebuild(references, reporter=session.reporter())
    else:
        more: Mapping[str, Any] = {} if references else {"jobs": jobs, "anchors": anchors, "keys": keys}
        with nullcontext() if references else session.counting("reading") as bar:
            report = session.registry.upkeep.audit(
                references, repair=repair, copies=copies, **more, reporter=session.reporter(bar)
            )
    names, hint = [problem.subject for problem in report.problems], not (repair or chain or again)
    session.emit(report, names=names, human=lambda: _tell(session, report, hint=hint))
    if not report.ok:
        return 1
    return 3 if report.inconclusive else 0


def _tell(session: Session, report: Report, *, hint: bool) -> None:
    counts = ", ".join(plural(rows, _NAMES.get(kind, kind)) for kind, rows in report.checked.items() if rows)
    session.print(f"Checked {counts or 'nothing'}.")
    for one in report.rebuilt:
        session.print(f"  {one.verdict}: {one.name}: {one.message}")
    for mended in report.repaired:
        session.print(f"  repaired: {mended.code}: {mended.subject}: from {mended.source}")
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
    problems = plural(len(report.problems), "problem") if report.problems else "no problems"
    if report.repaired:
        session.print(f"{len(report.repaired)} repaired, {problems} left.")
    else:
        session.print(f"{problems}." if report.problems else "No problem found.")
    if hint and any(problem.damage for problem in report.problems):
        session.say("Next: fusery audit --repair")


def _some(names: Sequence[str]) -> str:
    """Return the first few names; --json has all."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
