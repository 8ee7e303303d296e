"""`fusery diff` and `combine`: where adapters differ, and a new one computed from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.api.adapters import Adapters
from fusery.registry.charts.text import size
from fusery.registry.names import AdapterName
from fusery.registry.parsing import plural

from .columns import MARK, explain_mark, record_facts, record_table
from .command import command
from .options import FILE
from .session import Session
from .tables import cut
from .text import cell, number, share

if TYPE_CHECKING:
    from fusery.registry.comparison.combine import Combination, SourceShare
    from fusery.registry.records.difference import ComparedAdapters, ModuleDifference, WeightsDifference
    from fusery.storage.progress import Reporter


# Modules are worked on side by side: threads within each product would only get in one another's way.  NumPy reads
# this when it is loaded, which is later.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_FIGURES = ("digest", "fused.cosine", "fused.relative_error", "fused.noise")  # fields that -v shows
_FIELDS, _MODULES = 14, 5  # rows that are shown without -v: they fit on a screen with the answer and notes
_WIDTH = 28  # characters of a field's name, beside which two values fit


@command(
    "diff",
    document="records.difference:ComparedAdapters | records.difference:WeightsDifference",
    verbose="Show all fields, and with --weights all modules and figures.",
    needs={"force": "plot"},
    excludes=("weights", "plot"),
    references="TASK|REF...",
    weights=": Also compare the updates of two adapters, module by module.",
    plot=(": Draw the loss curves to a .svg or .png file.", FILE),
    force=": Replace the file of --plot.",
)
def diff(
    session: Session,
    references: tuple[str, ...],
    *,
    weights: bool = False,
    plot: Path | None = None,
    force: bool = False,
) -> None:
    """Compare adapters or a task's versions, and say which is better.

    The first line goes by losses and evaluations on the same data. The rest lists fields of the records, of the training
    and of the newest fused models that differ.

    Examples:
      fusery diff course_rec
      fusery diff course_rec@1 course_rec@2 --weights
    """
    adapters = session.registry.adapters
    if not weights:
        comparison = adapters.compare(references, plot=plot, force=force)

        def human() -> None:
            _print(session, comparison, comparison.adapters, comparison.differs)
            for finding in comparison.findings:
                session.note(f"{finding.code}: {finding.why}, which cannot be compared")
            if comparison.plot:
                session.print(f"Curves: {comparison.plot}")

        session.emit(comparison, names=[*comparison.differs], human=human)
        return
    if len(references) != 2:
        raise click.UsageError("--weights compares two adapters.")
    result = adapters.diff(*references)
    names = [result.a, result.b]

    def show() -> None:
        _print(session, result, names, result.changed, _FIELDS - 4 - len(result.modules[:_MODULES]))
        _print_weights(session, result)

    session.emit(result, names=[*result.changed], human=show)


def _print(
    session: Session,
    result: ComparedAdapters | WeightsDifference,
    names: Sequence[str],
    fields: Mapping[str, Sequence[object]],
    most: int = _FIELDS,
) -> None:
    """Print which adapter is better, the fields that differ, and yanks."""
    session.print(result.better.sentence)
    if result.better.hint:
        session.say(f"Hint: {result.better.hint}")
    keys, more = sorted(fields, key=lambda field: field.startswith("training.")), 0
    if not session.verbose:
        keys = [field for field in keys if field not in _FIGURES]
        more = len(keys[most:])
        keys = keys[:most]
    versions = [AdapterName.parse(name) for name in names]
    titles = [f"{version.task}@{version.version}" for version in versions]
    table = session.table("", *titles, free=titles)
    for field in keys:
        amended: Sequence[str] = result.amended.get(field, ())
        cells = zip(names, fields[field], strict=True)
        title = cell(field) if session.verbose else cut(cell(field), _WIDTH)
        table.add_row(title, *(cell(value) + MARK * (name in amended) for name, value in cells))
    if keys:
        session.print_table(table)
        explain_mark(session, any(field in result.amended for field in keys))
    else:
        session.print("Nothing differs.")
    if more:
        session.say(f"{plural(more, 'more field')} with -v.")
    for name, yanks in result.withdrawals.items():
        for yank in yanks:
            session.note(f"{name}: {yank.summary}")


def _print_weights(session: Session, difference: WeightsDifference) -> None:
    from fusery.registry.records.difference import LAYOUT, ModuleDifference, WholeDifference

    overall = difference.overall
    session.print()
    if overall.cosine is None or overall.relative_change is None:
        session.print("One of the two updates is zero.")
    else:
        likeness = next(words for least, words in _LIKENESS if overall.cosine >= least)
        session.print(f"{likeness}: their difference is {share(overall.relative_change)} of the first.")
    columns, modules = "module rank_a rank_b relative_change", difference.modules
    if session.verbose:
        session.facts(record_facts(WholeDifference, LAYOUT, overall))
        session.print()
        columns = "module norm_a norm_b cosine relative_change effective_rank_a effective_rank_b overlap_in overlap_out"
        columns += " magnitudes" if any(module.magnitudes for module in modules) else ""
    # A module that only one of the two adapts has no change: it comes first.
    rows = sorted(
        modules,
        key=lambda row: float("-inf") if row.relative_change is None else -float(row.relative_change),
    )

    def magnitudes(row: ModuleDifference) -> str:
        return number(row.magnitudes.relative_change if row.magnitudes else None)

    shown = rows if session.verbose else rows[:_MODULES]
    session.print_table(record_table(ModuleDifference, shown, columns, magnitudes=magnitudes))
    if len(shown) < len(rows):
        session.say(
            f"The most different {len(shown)} of {len(rows)} modules; -v shows all, with more figures."
        )
    for name in dict.fromkeys(difference.uncompared):
        session.note(f"{name} holds whole tensors beside its factors, which are not compared")


_LIKENESS = (
    (0.9, "The updates are nearly the same"),
    (0.5, "The updates are similar"),
    (-0.5, "The updates have little in common"),
    (-1.1, "The updates are opposed"),
)
"""What the cosine of two updates means, from which value on."""


# Above this interference `combine` recommends tsv: in benchmarks/merging.py, with weight 1, it retained more than the sum.
_INTERFERENCE = 0.5


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("write numbers with commas between, such as 0.7,0.3") from None


@command(
    "combine",
    Adapters.combine,
    method=("", ["svd", "cat", "linear", "ties", "dare", "core", "knots", "tsv"]),
    weights=click.Option(
        ["--weights"], callback=_numbers, metavar="W,W...", help="Weight of each adapter; default: 1."
    ),
    rank="N: Rank of the new adapter; a single REF is reduced to it.",
    task=": Task of the new adapter; default: the task of REF.",
    note="TEXT: A note for people.",
    dry_run=": Only show how much of the updates the new adapter would retain.",
)
def combine(
    session: Session, references: tuple[str, ...], *, rank: int | None = None, **options: Any
) -> None:
    """Combine adapters into one, or reduce one to a smaller rank.

    svd is the weighted sum of the updates, cut to a rank. cat is the whole sum; its rank is the sum of the ranks. linear,
    ties and dare combine the factors A and B, which only approximates the sum. core (Core Space), knots (KnOTS) and
    tsv (TSV-Merge) merge whole updates so that they interfere less. See docs/guides/fuse.md.

    TASK@latest skips the new adapter until it has a validation loss (fusery edit REF --val-loss LOSS).

    Examples:
      fusery combine course_rec@1 course_rec@2 --weights 0.7,0.3 --task mixed
      fusery combine course_rec@2 --rank 4 --task small
    """
    adapters = session.registry.adapters
    with session.progress("combining") as bar:
        reporter = session.reporter(bar)
        if len(references) == 1 and rank is not None:
            done = _shrunk(adapters, references[0], rank, options, reporter)
        else:
            done = adapters.combine(references, rank=rank, **options, reporter=reporter)
    session.emit(done, names=[done.name] if done.name else [], human=lambda: _print_combine(session, done))


def _shrunk(
    adapters: Adapters, reference: str, rank: int, options: Mapping[str, Any], reporter: Reporter
) -> Combination:
    if options["method"] != "svd" or any(options[key] is not None for key in ("weights", "density", "seed")):
        raise click.UsageError("--method, --weights, --density and --seed are for several adapters.")
    kept = {name: options[name] for name in ("task", "tags", "note", "dry_run")}
    return adapters.shrink(reference, rank=rank, **kept, reporter=reporter)


def _print_combine(session: Session, done: Combination) -> None:
    if done.adapter is None:
        session.print("Dry run: nothing was registered.")
    else:
        session.print(f"{'Registered' if done.adapter.created else 'Already registered'}: {done.name}")
    recipe = done.recipe
    how = [recipe.method, f"rank {recipe.rank}"]
    how += [f"density {number(recipe.density)}"] if recipe.density is not None else []
    how += [f"seed {recipe.seed}"] if recipe.seed is not None else []
    weighted = zip(done.sources, recipe.weights, strict=True)
    least = f"{share(done.least_retained)}, in {cell(done.least_module)}" if done.least_module else "-"
    what = "of the update" if recipe.method == "shrink" else "of the weighted sum of the updates"
    sources = (name if weight == 1 else f"{name} x {number(weight)}" for name, weight in weighted)
    session.facts(
        [
            ("from", ", ".join(sources)),
            ("how", ", ".join(how)),
            ("kept", f"{share(done.retained)} {what} (least: {least})"),
            *(_retained(done.shares) if len(done.shares) > 1 else ()),
            ("size", f"{size(done.bytes)} in {plural(done.modules, 'module')}"),
        ]
    )
    worst = max((one.interference or 0.0 for one in done.shares), default=0.0)
    if recipe.method not in ("tsv", "shrink") and set(recipe.weights) == {1.0} and worst > _INTERFERENCE:
        session.say("Hint: --method tsv usually interferes less; see docs/measurements.md")
    if done.adapter is not None:
        session.findings(done.adapter["findings"])
        session.say(f"Next: fusery eval run {done.name} --prompts FILE")


def _retained(shares: Sequence[SourceShare]) -> Iterator[tuple[str, str]]:
    """Yield how much of each adapter's own update is retained, the interference, and the module with the most."""
    yield "retains", ", ".join(f"{share(one.retained)} of {one.name}" for one in shares)
    yield "interference", ", ".join(f"{share(one.interference)} for {one.name}" for one in shares)
    worst = max(shares, key=lambda one: one.worst_interference or 0.0)
    if worst.worst_module is not None:
        yield "worst module", f"{share(worst.worst_interference)} for {worst.name}, in {worst.worst_module}"
