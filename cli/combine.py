"""`fusery combine` and `shrink`: a new adapter computed from registered ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .adapters import TAGS
from .findings import print_findings
from .session import Session, command
from .text import cell, number, share

if TYPE_CHECKING:
    from fusery.registry.combining.combine import Combination

METHODS = ("svd", "cat", "linear", "ties", "dare")


def _new_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What can be said of the new adapter."""
    options = [
        click.option("--task", metavar="TASK", help="What the new adapter is for; default: the same."),
        TAGS,
        click.option("--note", metavar="TEXT", help="A note for people."),
        click.option("--dry-run", is_flag=True, help="Only show how much would be kept; nothing is made."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("write numbers with commas between, such as 0.7,0.3") from None


@command("combine")
@click.argument("references", metavar="REF REF...", nargs=-1, required=True)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="svd",
    show_default=True,
    help="How; see above.",
)
@click.option("--weights", metavar="W,W...", callback=_numbers, help="One for each adapter; default: 1 each.")
@click.option("--density", type=float, metavar="D", help="Share of the numbers that ties and dare keep.")
@click.option("--rank", type=int, metavar="R", help="Rank for svd; default: the largest of theirs.")
@click.option("--seed", type=int, metavar="N", help="Of what dare keeps; default: 0.")
@_new_options
def combine_command(session: Session, references: tuple[str, ...], **options: Any) -> None:
    """Combine adapters on one base into a new adapter.

    svd makes the weighted sum of the updates, cut to a rank; cat all of that sum, whose rank is the sum of theirs.

    linear adds up the factors A and B, which only comes near to that sum; ties does so with the largest numbers, where
    they agree in sign, and dare with numbers that are drawn.  See docs/guides/combine.md.

    All agree with PEFT's add_weighted_adapter (dare is its dare_linear).  The new adapter is registered, with the recipe in
    it: the same again gives the same bytes, and the adapter that is there.

    If all sources have the same dataset, so has the new adapter.  TASK@latest skips the new adapter until it has a validation
    loss (fusery amend REF --val-loss LOSS), unless the task has no other adapter.
    """
    _use_one_thread()
    _run(session, "combining", session.registry.adapters.combine, references, options)


@command("shrink")
@click.argument("reference", metavar="REF")
@click.option("--rank", type=int, required=True, metavar="R", help="Rank of the new adapter.")
@_new_options
def shrink_command(session: Session, reference: str, **options: Any) -> None:
    """Make the nearest adapter of a smaller rank.

    It is registered, with the recipe in it.  How much of the update that keeps is shown; with --dry-run before anything
    is made.

    The new adapter has the dataset of REF.  TASK@latest skips the new adapter until it has a validation loss (fusery amend
    REF --val-loss LOSS), unless the task has no other adapter.
    """
    _use_one_thread()
    _run(session, "shrinking", session.registry.adapters.shrink, reference, options)


def _use_one_thread() -> None:
    # Modules are worked on side by side: threads within each product would only get in one another's way.  NumPy reads
    # this when it is loaded, which is later.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _run(
    session: Session,
    label: str,
    compute: Callable[..., Combination],
    what: str | tuple[str, ...],
    options: Mapping[str, Any],
) -> None:
    with session.progress(label) as progress:
        done = compute(what, **options, reporter=session.reporter(progress))
    names = [] if done.name is None else [done.name]
    session.emit(done, names=names, human=lambda: _print(session, done))


def _print(session: Session, done: Combination) -> None:
    if done.adapter is None:
        session.print("Nothing was made; this is what it would be.")
    else:
        session.print(f"{'Registered' if done.adapter.created else 'Already registered'}: {done.name}")
    recipe = done.recipe
    how = [recipe.method, f"rank {recipe.rank}"]
    how += [f"density {number(recipe.density)}"] if recipe.density is not None else []
    how += [f"seed {recipe.seed}"] if recipe.seed is not None else []
    weighted = zip(done.sources, recipe.weights, strict=True)
    least = f"{share(done.least_retained)}, in {cell(done.least_module)}" if done.least_module else "-"
    what = "of the update" if recipe.method == "shrink" else "of the weighted sum of the updates"
    session.facts(
        [
            (
                "from",
                ", ".join(name if weight == 1 else f"{name} x {number(weight)}" for name, weight in weighted),
            ),
            ("how", ", ".join(how)),
            ("kept", f"{share(done.retained)} {what} (least: {least})"),
            ("relative error", number(done.relative_error)),
            ("size", f"{size(done.bytes)} in {plural(done.modules, 'module')}"),
        ]
    )
    if done.adapter is not None:
        print_findings(session, done.adapter["findings"])
