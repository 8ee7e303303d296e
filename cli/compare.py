"""`fusery diff` and `compare`: what adapters have in common and where they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .amendments import MARK, explain_mark
from .columns import record_facts, record_table
from .session import LocalPath, Session, command
from .text import cell, number

if TYPE_CHECKING:
    from fusery.registry.records.difference import ModuleDifference, WeightsDifference
    from fusery.registry.records.withdrawal import Withdrawal

_SHORT_DIGEST = 12


@command("diff", table=True)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--weights", is_flag=True, help="Compare the weights too, module by module.")
@click.option(
    "--plot",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="With --weights: draw layer by module to a .svg or .png file; .png needs the extra `plot`.",
)
@click.option("--force", is_flag=True, help="With --plot: replace the file.")
def diff_command(session: Session, a: str, b: str, weights: bool, plot: Path | None, force: bool) -> None:
    """Show what differs between two adapters.

    Compared are the record and the training configuration; with --weights also what each adapter adds to the base,
    module by module, for adapters on one base.
    """
    if plot is not None and not weights:
        raise click.UsageError("--plot goes with --weights.")
    if force and plot is None:
        raise click.UsageError("--force goes with --plot.")
    # Modules are compared on all cores: threads within each product would only get in one another's way.  NumPy reads
    # this when it is loaded, which is later.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from fusery.registry.records.difference import WeightsDifference

    difference = session.registry.adapters.diff(a, b, weights=weights, plot=plot, force=force)

    def human() -> None:
        _print_fields(session, [difference.a, difference.b], difference.changed, difference.amended)
        _warn(session, difference.withdrawals)
        if isinstance(difference, WeightsDifference):
            _print_weights(session, difference)

    session.emit(difference, names=list(difference.changed), human=human)


@command("compare", table=True)
@click.argument("references", metavar="TASK|REF...", nargs=-1, required=True)
@click.option(
    "--plot",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="Draw the training curves over one another to a .svg or .png file; .png needs the extra `plot`.",
)
@click.option("--force", is_flag=True, help="With --plot: replace the file.")
def compare_command(session: Session, references: tuple[str, ...], plot: Path | None, force: bool) -> None:
    """Compare two or more adapters, or all versions of a task.

    Two or more adapters are compared in everything that differs; a TASK stands for all of its versions.  Compared are
    the records, the training configuration, and the newest model fused from each.
    """
    if force and plot is None:
        raise click.UsageError("--force goes with --plot.")
    found = session.registry.adapters.compare(references, plot=plot, force=force)

    def human() -> None:
        _print_fields(session, found.adapters, found.differs, found.amended)
        _warn(session, found.withdrawals)
        for each in found.findings:
            session.note(f"{each.code}: {each.why}, which cannot be compared")
        if found.plot:
            session.print(f"Curves: {found.plot}")

    session.emit(found, names=list(found.differs), human=human)


def _warn(session: Session, withdrawals: Mapping[str, Sequence[Withdrawal]]) -> None:
    for name, found in withdrawals.items():
        for each in found:
            session.note(f"{name}: {each.told}")


def _print_fields(
    session: Session,
    names: Sequence[str],
    fields: Mapping[str, Sequence[object]],
    amended: Mapping[str, Sequence[str]],
) -> None:
    if not fields:
        session.print("Nothing differs.")
        return
    titles = [cell(name) for name in names]
    table = session.table("", *titles, free=titles)
    for field, values in fields.items():
        marked = amended.get(field, [])
        cells = zip(names, values, strict=True)
        table.add_row(cell(field), *(_shown(field, value) + MARK * (name in marked) for name, value in cells))
    session.print_table(table)
    explain_mark(session, any(field in amended for field in fields))


def _shown(field: str, value: object) -> str:
    return cell(value)[:_SHORT_DIGEST] if field == "digest" else cell(value)


def _print_weights(session: Session, difference: WeightsDifference) -> None:
    from fusery.registry.records.difference import LAYOUT, WholeDifference

    session.print()
    lines = record_facts(WholeDifference, LAYOUT, difference.overall)
    session.facts([*lines, *([("picture", str(difference.plot))] if difference.plot else [])])
    session.print()
    _print_modules(session, difference.modules)
    for name in dict.fromkeys(difference.uncompared):
        session.note(f"{name} holds whole tensors beside its factors, which are not compared")


def _print_modules(session: Session, modules: Sequence[ModuleDifference]) -> None:
    """Print the modules, those that changed the most first; one that only one of the two adapts has no cosine."""
    from fusery.registry.records.difference import ModuleDifference

    columns = (
        "module norm_a norm_b cosine relative_change effective_rank_a effective_rank_b overlap_in overlap_out"
    )
    if any(module.magnitudes for module in modules):
        columns += " magnitudes"
    rows = sorted(modules, key=_most_changed_first)
    session.print_table(record_table(ModuleDifference, rows, columns, magnitudes=_of_magnitudes))


def _of_magnitudes(module: ModuleDifference) -> str:
    return number(module.magnitudes.relative_change if module.magnitudes else None)


def _most_changed_first(module: ModuleDifference) -> float:
    change = module.relative_change
    return float("-inf") if change is None else -float(change)
