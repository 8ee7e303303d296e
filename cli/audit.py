"""`fusery audit`: is everything as recorded, and can what is not be mended?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.parsing import plural

from .bulk import counting, jobs_option
from .session import LocalPath, Session, command

if TYPE_CHECKING:
    from fusery.registry.audit import Report

_NAMES = {"fused": "fused model"}
_ALONE = {
    "--chain": "--chain follows the log alone",
    "--rebuild": "--rebuild makes fused models again, one after the other, and checks nothing else",
}

_SHOWN = 8
"""Names that are shown to people in one line."""


@command("audit")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option(
    "--repair", is_flag=True, help="Put back what is missing or damaged, and put damaged blobs aside."
)
@click.option(
    "--from",
    "copies",
    multiple=True,
    type=LocalPath(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --repair: look for copies in this folder, too; may be given again.",
)
@click.option("--all", "every", is_flag=True, help="Everything, as without REF.")
@jobs_option
@click.option("--chain", is_flag=True, help="Only the log: each entry against its hash and the one before.")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="The log must still have the entry of this anchor; not with REF; may be given again.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=LocalPath(path_type=Path),
    metavar="KEY.pub",
    help="With --anchor: who may have signed it; may be given again.",
)
@click.option(
    "--rebuild",
    "again",
    is_flag=True,
    help="Only this: make fused models again by their recipes, and compare.",
)
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
    again: bool,
    anchors: tuple[Path, ...],
    keys: tuple[Path, ...],
) -> int:
    """Rehash and cross-check database, store and cache; repair.

    Without REF everything is checked, several blobs at a time; an audit that was interrupted is taken up where it
    stopped.  Exit code 0 when all is well or was repaired, 1 when a problem is left.

    --repair takes the bytes from another copy in the store, the cache, a bundle or a folder on record, or makes a
    fused model again by its recipe; digests must match.  Damaged blobs go to quarantine and are never deleted.

    --rebuild says of each fused model, or of those made from REF, whether it comes out bit-identical, with identical
    tensors, within tolerance (numbers two units in the last place apart), or different, with the first tensor that
    differs and the input that changed.  Exit code 3 when one cannot be made here.
    """
    if keys and not anchors:
        raise click.UsageError("--key goes with --anchor.")
    alone = {"--chain": chain, "--rebuild": again}
    _check_options(
        references,
        repair=repair,
        copies=copies,
        whole={"--all": every, "--jobs": jobs is not None, "--anew": anew},
        alone=alone,
        anchored=bool(anchors),
    )
    if chain:
        report = session.registry.upkeep.audit_chain(anchors=anchors, keys=keys)
    elif again:
        report = session.registry.upkeep.audit_rebuild(references, reporter=session.reporter())
    elif references:
        report = session.registry.upkeep.audit(
            references, repair=repair, copies=copies, reporter=session.reporter()
        )
    else:
        with counting(session, "reading") as told:
            report = session.registry.upkeep.audit_all(
                repair=repair,
                copies=copies,
                jobs=jobs,
                anew=anew,
                anchors=anchors,
                keys=keys,
                reporter=session.reporter(told),
            )
    session.emit(
        report,
        names=[problem.subject for problem in report.problems],
        human=lambda: _tell(session, report, hint=not (repair or chain or again)),
    )
    if not report.ok:
        return 1
    return 3 if report.inconclusive else 0


def _check_options(
    references: Sequence[str],
    *,
    repair: bool,
    copies: Sequence[Path],
    whole: Mapping[str, bool],
    alone: Mapping[str, bool],
    anchored: bool,
) -> None:
    if copies and not repair:
        raise click.UsageError("--from goes with --repair.")
    chosen = [name for name, given in alone.items() if given]
    wide = [name for name, given in whole.items() if given]
    others = [*chosen[1:], *(["--repair"] if repair else []), *wide]
    if chosen and others:
        raise click.UsageError(f"{_ALONE[chosen[0]]}: {others[0]} does not go with it.")
    if references and wide:
        raise click.UsageError(f"{wide[0]} is for an audit of everything, without REF.")
    if anchored and (references or alone["--rebuild"]):
        raise click.UsageError("--anchor is for an audit of everything, or with --chain.")
    if alone["--chain"] and references:
        raise click.UsageError("--chain follows the log, and nothing goes with it.")


def _tell(session: Session, report: Report, *, hint: bool) -> None:
    counts = ", ".join(
        plural(count, _NAMES.get(kind, kind)) for kind, count in report.checked.items() if count
    )
    session.print(f"Checked {counts or 'nothing'}.")
    for one in report.rebuilt:
        session.print(f"  {one.verdict}: {one.name}: {one.message}")
    for mended in report.repaired:
        session.print(f"  repaired: {mended.problem.code}: {mended.problem.subject}: from {mended.source}")
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
    if hint and any(problem.damage for problem in report.problems):
        session.say("Next: fusery audit --repair")


def _verdict(left: int, repaired: int) -> str:
    if repaired:
        return f"{repaired} repaired, {plural(left, 'problem') if left else 'no problems'} left."
    if left == 0:
        return "No problem found."
    return f"{plural(left, 'problem')}."


def _some(names: Sequence[str]) -> str:
    """Return the first few names; --json has all."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
