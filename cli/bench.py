"""`fusery bench`: what an adapter costs on this machine in each form it could be shipped as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusery.registry.engine.precisions import PRECISIONS
from fusery.registry.parsing import plural

from .session import Session, command
from .text import number, share, size


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
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the bars to a .png or .svg file; needs the extra `plot`.",
)
@click.option("--force", is_flag=True, help="With --plot: replace the file.")
def bench_command(
    session: Session,
    reference: str,
    precisions: tuple[str, ...],
    last: bool,
    plot: Path | None,
    force: bool,
    **numbers: Any,
) -> int:
    """Measure size, load time, speed and memory of each form.

    Size, load time, first token, tokens a second and peak memory, of the base, the adapter and what is fused.  Each
    measurement is a process of its own.  It ends with what to ship, and why.  What was measured is kept in the log.

    Exit code 3 when --last finds nothing.
    """
    if last:
        if plot is not None or precisions:
            raise click.UsageError("--last measures and draws nothing.")
        found = session.registry.adapters.last_bench(reference)
        if found is None:
            session.say(f"Nothing was measured of {reference} yet: fusery bench {reference}")
            session.emit(None, names=[], human=lambda: None)
            return 3
    else:
        if force and plot is None:
            raise click.UsageError("--force goes with --plot.")
        found = session.registry.adapters.bench(
            reference, precisions=precisions, plot=plot, force=force, say=session.say, **numbers
        )
    view = found.to_dict()
    session.emit(view, names=[view["choice"] or ""], human=lambda: _print(session, view))
    return 0


def _print(session: Session, view: dict[str, Any]) -> None:
    right = ("weights", "load", "first token", "tokens/s", "peak memory", "retained")
    table = session.table("form", "", *right, right=right, free=("",))
    for row in view["rows"]:
        table.add_row(*_cells(row, view["choice"]))
    session.print_table(table)
    machine = view["machine"]
    session.print(
        f"{view['adapter']} on {view['base']}; {machine['processor']}, {plural(machine['cores'], 'core')}, mlx {machine['mlx']}; "
        f"{view['prompt_tokens']} + {plural(view['tokens'], 'token')}, {plural(view['runs'], 'round')}"
    )
    session.print(f"Ship: {view['choice'] or 'nothing of this'}")
    for reason in view["reasons"]:
        session.print(f"  {reason}")
    if view["plot"]:
        session.print(f"Drawn to {view['plot']}")


def _cells(row: dict[str, Any], choice: str | None) -> list[str]:
    if row["error"] is not None:
        return [row["label"], row["error"], size(row["bytes"]), "-", "-", "-", "-", "-"]
    fidelity = row["fidelity"]
    return [
        row["label"],
        "<- ship this" if row["label"] == choice else "",
        size(row["bytes"]),
        f"{row['load_seconds']:.2f} s",
        f"{1000 * row['first_token_seconds']:.0f} ms",
        number(row["tokens_per_second"]),
        size(row["peak_bytes"]),
        "-" if fidelity is None else share(fidelity["retained"]),
    ]
