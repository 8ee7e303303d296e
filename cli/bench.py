"""`fusery bench`: what an adapter costs on this machine in each form it could be shipped as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.engine.precisions import PRECISIONS
from fusery.registry.parsing import plural

from .evaluations import RECORD
from .session import LocalPath, Session, command
from .text import number, share

if TYPE_CHECKING:
    from fusery.registry.engine.precisions import Precision
    from fusery.registry.evaluation.bench import BenchReport
    from fusery.registry.evaluation.subjects import FormCost


@command("bench", table=True)
@click.argument("reference", metavar="REF")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Of the fused models; may be given again; default: each that the base allows.",
)
@click.option(
    "--resident",
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Adapters in memory at once; 0: skip.",
)
@click.option(
    "--prompt-tokens", type=int, default=64, show_default=True, metavar="N", help="Length of the prompt."
)
@click.option("--tokens", type=int, default=32, show_default=True, metavar="N", help="Tokens to write.")
@click.option("--runs", type=int, default=3, show_default=True, metavar="N", help="Rounds; medians count.")
@click.option("--last", is_flag=True, help="Show what was measured last instead of measuring.")
@click.option(
    "--plot",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="Draw the bars to a .svg or .png file; .png needs the extra `plot`.",
)
@click.option("--force", is_flag=True, help="With --plot: replace the file.")
@RECORD
def bench_command(
    session: Session,
    reference: str,
    precisions: tuple[Precision, ...],
    last: bool,
    plot: Path | None,
    force: bool,
    record: bool,
    **numbers: Any,
) -> int:
    """Measure size, load time, speed and memory of each form.

    Size, load time, first token, tokens a second and peak memory, of the base, the adapter and what is fused.  Each
    measurement is a process of its own.  It ends with what to ship, and why.  What was measured is kept in the log,
    and of adapter and fused models as evaluations, bench.adapter.tokens_per_second and others.

    Exit code 3 when --last finds nothing.
    """
    if last:
        if plot is not None or precisions:
            raise click.UsageError("--last measures and draws nothing.")
        found = session.registry.evaluations.last_bench(reference)
        if found is None:
            session.say(f"Nothing was measured of {reference} yet: fusery bench {reference}")
            session.emit(None, names=[], human=lambda: None)
            return 3
    else:
        if force and plot is None:
            raise click.UsageError("--force goes with --plot.")
        found = session.registry.evaluations.bench(
            reference,
            precisions=precisions,
            plot=plot,
            force=force,
            record=record,
            reporter=session.reporter(),
            **numbers,
        )
    measured = found
    session.emit(measured, names=[measured.choice or ""], human=lambda: _print(session, measured))
    return 0


def _print(session: Session, found: BenchReport) -> None:
    right = ("weights", "load", "first token", "tokens/s", "peak memory", "retained")
    table = session.table("form", "", *right, right=right, free=("",))
    for row in found.rows:
        table.add_row(*_cells(row, found.choice))
    session.print_table(table)
    machine = found.machine
    cores = "cores" if machine.cores is None else plural(machine.cores, "core")
    session.print(
        f"{found.adapter} on {found.base}; {machine.processor}, {cores}, mlx {machine.mlx}; "
        f"{found.prompt_tokens} + {plural(found.tokens, 'token')}, {plural(found.runs, 'round')}"
    )
    session.print(f"Ship: {found.choice or 'nothing of this'}")
    for reason in found.reasons:
        session.print(f"  {reason}")
    if found.plot:
        session.print(f"Drawn to {found.plot}")


def _cells(row: FormCost, choice: str | None) -> list[str]:
    if row.error is not None:
        return [row.label, row.error, size(row.bytes), "-", "-", "-", "-", "-"]
    return [
        row.label,
        "<- ship this" if row.label == choice else "",
        size(row.bytes),
        f"{row.load_seconds:.2f} s",
        f"{1000 * (row.first_token_seconds or 0):.0f} ms",
        number(row.tokens_per_second),
        size(int(row.peak_bytes or 0)),
        "-" if row.fidelity is None else share(row.fidelity.retained),
    ]
