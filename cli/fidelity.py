"""`fusery fidelity`: what a fused model retained of an adapter, and what the adapter could be shipped as."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.engine.verdict import closeness

from .columns import record_table
from .session import LocalPath, Session, command
from .text import cell, foreign_fact, number, share, times, told

if TYPE_CHECKING:
    from fusery.registry.fusion.formats import Format, Formats
    from fusery.registry.records.fused import FusedDetails, ModuleFidelity

_WITH_FORMATS = {"scale": "--scale", "extras": "--with", "min_fidelity": "--min-fidelity"}


@command("fidelity", table=True)
@click.argument("reference", metavar="REF")
@click.option(
    "--formats",
    is_flag=True,
    help="Compare all ways to write the fused model of an adapter, from a sample of its rows; nothing is written.",
)
@click.option(
    "--plot",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="Draw layer by module to a .svg or .png file; .png needs the extra `plot`.",
)
@click.option("--force", is_flag=True, help="With --plot: replace the file.")
@click.option("--scale", type=float, metavar="X", help="With --formats: instead of the adapter's own scale.")
@click.option(
    "--with",
    "extras",
    multiple=True,
    metavar="REF[:WEIGHT]",
    help="With --formats: add another adapter of the same base, times WEIGHT; may be given again.",
)
@click.option(
    "--min-fidelity",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="With --formats: minimum share of the update to retain; 0.9 asks for 90 to 110 %.",
)
def fidelity_command(
    session: Session, reference: str, formats: bool, plot: Path | None, force: bool, **wanted: Any
) -> None:
    """Show how much of an adapter a fused model holds.

    Or, with --formats, what to ship an adapter as.  REF is a fused artifact by its digest or key, or an adapter, which
    stands for the newest model fused from it.  With --formats REF is an adapter that need not be fused yet.
    """
    if formats:
        if plot is not None or force:
            raise click.UsageError("--plot draws one fused model, --formats compares those that could be.")
        _compare(session, reference, wanted)
        return
    for name, option in _WITH_FORMATS.items():
        if wanted[name] not in (None, ()):
            raise click.UsageError(f"{option} goes with --formats: what is on record is as it is.")
    if force and plot is None:
        raise click.UsageError("--force goes with --plot.")
    fused = session.registry.fused.fidelity(reference, plot=plot, force=force)
    names = [str(fused.plot or fused.key)]
    session.emit(fused, names=names, human=lambda: _print_record(session, fused))


def _print_record(session: Session, fused: FusedDetails) -> None:
    fidelity = fused.fidelity
    session.facts(
        [
            ("adapter", cell(fused.combined)),
            *foreign_fact(fused),
            ("base", fused.base),
            ("precision", fused.format),
            ("verdict", fidelity.verdict),
            ("retained", share(fidelity.retained)),
            ("cosine", number(fidelity.cosine)),
            ("relative error", number(fidelity.relative_error)),
            ("noise", share(fidelity.noise)),
            ("weights", f"{size(fused.weights_bytes)}, {times(fused.times_base)} the base's"),
            ("key", fused.key),
            *([("note", told(fused))] if fused.withdrawals else []),
            *([("picture", str(fused.plot))] if fused.plot else []),
        ]
    )
    session.print()
    _print_modules(session, fidelity.modules or ())


def _print_modules(session: Session, modules: Iterable[ModuleFidelity]) -> None:
    """Print the retained share of each module, the furthest from 100 % first."""
    from fusery.registry.records.fused import ModuleFidelity

    rows = sorted(modules, key=lambda module: closeness(module.retained))
    session.print_table(record_table(ModuleFidelity, rows, "module retained cosine relative_error norm"))


def _compare(session: Session, reference: str, wanted: dict[str, Any]) -> None:
    from fusery.registry.fusion.request import FuseRequest, parse_extra

    extras = tuple(parse_extra(text) for text in wanted.pop("extras"))
    found = session.registry.fused.formats(
        reference, FuseRequest(extras=extras, **wanted), reporter=session.reporter()
    )

    def human() -> None:
        right = ("weights", "of the base", "retained", "cosine", "noise")
        table = session.table("format", "verdict", "", *right, right=right, free=("verdict",))
        for row in found.formats:
            table.add_row(*_cells(row))
        session.print_table(table)
        session.say(_advice(found))
        if any(row.sampled for row in found.formats):
            session.say(_ESTIMATED)

    session.emit(found, names=[row.format for row in found.formats], human=human)


_ESTIMATED = (
    "What is not on record is an estimate: an eighth of the rows, and at random where a calibration shapes the model and would "
    "not decide."
)


def _cells(row: Format) -> list[str]:
    fidelity = row.fidelity
    if fidelity is None or row.bytes is None or row.times_base is None:
        return [row.format, row.reason or "", "", "-", "-", "-", "-", "-"]
    return [
        row.format,
        fidelity.verdict,
        " ".join([*(["<- auto"] if row.chosen else []), *([] if row.sampled else ["on record"])]),
        size(row.bytes),
        times(row.times_base),
        share(fidelity.retained),
        number(fidelity.cosine),
        share(fidelity.noise),
    ]


def _advice(found: Formats) -> str:
    if found.chosen is None:
        return "No format holds what the adapter learned."
    return (
        f"`auto` writes {found.chosen}: the smallest that holds what the adapter learned, with little noise."
    )
