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
_ALONE = {
    "--chain": "--chain follows the log alone",
    "--rebuild": "--rebuild makes fused models again, one after the other, and checks nothing else",
}

_SHOWN = 8  # names that are shown to people in one line


@command(
    "audit",
    document="upkeep.report:Report",
    needs={"keys": "anchors", "copies": "repair"},
    references="[REF]...",
    copies=(
        "--from DIR: With --repair: also look for copies in this folder; repeatable.",
        LocalPath(exists=True, file_okay=False, path_type=Path),
    ),
    every="--all: Audit everything, as without REF.",
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
    every: bool = False,
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
    whole = {"--all": every, "--jobs": jobs is not None}
    options = {"--chain": chain, "--rebuild": again, "--repair": repair, **whole}
    _require_alone(_ALONE, options)
    _require_alone({"REF": "REF names single records"}, {"REF": references, "--chain": chain, **whole})
    if anchors and (references or again):
        raise click.UsageError("--anchor is for an audit of everything, or with --chain.")
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
    session.emit(
        report,
        names=[problem.subject for problem in report.problems],
        human=lambda: _tell(session, report, hint=not (repair or chain or again)),
    )
    if not report.ok:
        return 1
    return 3 if report.inconclusive else 0


def _require_alone(alone: Mapping[str, str], others: Mapping[str, object]) -> None:
    """Refuse options beside one that goes with no other."""
    for option, reason in alone.items():
        if others[option] and (
            beside := next((name for name, on in others.items() if on and name != option), "")
        ):
            raise click.UsageError(f"{reason}: {beside} does not go with it.")


def _tell(session: Session, report: Report, *, hint: bool) -> None:
    counts = ", ".join(
        plural(count, _NAMES.get(kind, kind)) for kind, count in report.checked.items() if count
    )
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
    left = len(report.problems)
    problems = plural(left, "problem") if left else "no problems"
    if report.repaired:
        session.print(f"{len(report.repaired)} repaired, {problems} left.")
    else:
        session.print(f"{problems}." if left else "No problem found.")
    if hint and any(problem.damage for problem in report.problems):
        session.say("Next: fusery audit --repair")


def _some(names: Sequence[str]) -> str:
    """Return the first few names; --json has all."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
