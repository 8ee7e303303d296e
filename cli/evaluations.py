"""`fusery eval`: what was measured of adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.api.evaluations import Evaluations
from fusery.registry.engine.recipe import PRECISIONS, RequestedPrecision
from fusery.registry.parsing import plural

from .columns import record_facts, record_table
from .command import command, prints
from .fuse import WrittenAs
from .session import Session
from .tables import Table
from .text import number, share

if TYPE_CHECKING:
    from fusery.registry.comparison.reports import BenchReport, ProbeReport
    from fusery.registry.records.evaluation import Evaluation, RecordedEvaluations, WithdrawnEvaluations

_WORST = 3


@prints(
    "eval record",
    Evaluations.record,
    names=lambda done: [evaluation.metric for evaluation in done.recorded],
    results="RESULTS.json",
)
def record(session: Session, done: RecordedEvaluations, dry_run: bool = False) -> None:
    """Record evaluation results of an adapter.

    RESULTS.json is a results file of lm-evaluation-harness or lighteval, or a map of metrics to values, such as
    {"accuracy": 0.91, "dataset": "courses", "split": "test"}. Metrics of a harness are named TASK.METRIC, such as
    mmlu.acc. A different value for a recorded metric is refused.

    Example: fusery eval record course_rec@1 results.json
    """
    verb = "Would record" if dry_run else "Recorded"
    session.print(f"{verb} {plural(len(done.recorded), 'metric')} of {done.adapter}.")
    if done.recorded:
        session.print_table(_table(done.recorded))
    if done.unchanged:
        session.say(f"{plural(len(done.unchanged), 'metric')} with the same value on record already.")


@command(
    "eval run",
    Evaluations.run,
    tasks="--task NAME: Task of lm-evaluation-harness; repeatable.",
    base="BASE",
    include="DIR",
    prompts=": Without --task: prompts, as for eval probe.",
    limit="N: Only the first N prompts or samples; default: 32 prompts, all samples.",
)
def run(
    session: Session,
    reference: str,
    *,
    tasks: tuple[str, ...] = (),
    prompts: Path | None = None,
    seed: int | None = None,
    **options: Any,
) -> None:
    """Measure an adapter on its base model, and record the results.

    Without --task, measure the loss and the gain over the base model, on the run's held-out data or on --prompts FILE.
    With --task, run tasks of lm-evaluation-harness. Tasks in --include DIR may run their own code.

    Examples:
      fusery eval run course_rec@2 --prompts questions.jsonl
      fusery eval run course_rec@2 --task arc_easy --limit 200
    """
    chosen_options = {name: value for name, value in {"seed": seed, **options}.items() if value is not None}
    if tasks and prompts is not None:
        raise click.UsageError("--prompts is for what is measured without --task.")
    if not tasks and (only := sorted(chosen_options.keys() - {"base", "limit"})):
        raise click.UsageError(f"--{only[0]} goes with --task.")
    done = session.registry.evaluations.run(
        reference, tasks=tasks, prompts=prompts, reporter=session.reporter(), **chosen_options
    )
    names = [*(evaluation.metric for evaluation in done.recorded), *done.unchanged]
    session.emit(done, names=names, human=lambda: _print_run(session, done))


def _print_run(session: Session, done: RecordedEvaluations) -> None:
    values = {evaluation.metric: evaluation.value for evaluation in done.recorded}
    gain, loss = values.get("probe.gain"), values.get("probe.loss")
    if gain is not None and loss is not None:
        change = "lowers" if gain > 0 else "does not lower"
        session.print(
            f"{done.adapter} {change} the loss: {number(loss)} on these prompts, "
            f"{number(loss + gain)} by the base model alone."
        )
    record(session, done)


@prints(
    "eval withdraw",
    Evaluations.withdraw,
    names=lambda done: [evaluation.metric for evaluation in done.withdrawn],
    reason=click.Option(["--reason"], default="", metavar="TEXT", help="Reason, for the log; required."),
)
def withdraw(session: Session, done: WithdrawnEvaluations, dry_run: bool) -> None:
    """Withdraw wrong evaluation results of an adapter.

    The command withdraws all values that match METRIC and the options. You can record the correct value afterwards.

    Example: fusery eval withdraw course_rec@1 courses.acc --reason "typo"
    """
    verb = "Would withdraw" if dry_run else "Withdrew"
    session.print(f"{verb} {plural(len(done.withdrawn), 'metric')} of {done.adapter}.")
    session.print_table(_table(done.withdrawn))


@prints("eval list", Evaluations.list, names="metric", reference="[REF|TASK]")
def list_evaluations(session: Session, rows: list[Evaluation]) -> None:
    """List the evaluations of an adapter, of a task, or of all adapters.

    Evaluations are listed in the order of recording. Of several values of a metric, the newest counts.
    """
    session.print_table(_table(rows, adapter=True))
    if not rows:
        session.say("Nothing was measured. Hint: fusery eval record REF RESULTS.json")


def print_evaluations(session: Session, evaluations: Sequence[Evaluation]) -> None:
    """Print the newest evaluations of an adapter, one a line."""
    if rows := session.newest(evaluations, "evaluations"):
        session.print("measured")
        laid = _table(rows).laid(None)
        for line in (laid.head, *laid.rows):
            session.print(f"  {line}")


def _table(rows: Iterable[Evaluation], *, adapter: bool = False) -> Table:
    from fusery.registry.records.evaluation import Evaluation

    def harness(row: Evaluation) -> str:
        return " ".join(part for part in (row.harness, row.harness_version) if part) or "-"

    columns = "metric value stderr dataset split shots seed samples harness at:age by"
    return record_table(Evaluation, rows, f"adapter {columns}" if adapter else columns, harness=harness)


@command(
    "eval probe",
    Evaluations.probe,
    against="REF2",
    verbose="Show the divergence of the predictions (KL) too.",
    limit=("N", click.IntRange(1, 100_000)),
    precision=click.Option(
        ["--as", "precision"], type=WrittenAs(), help="Format of the fused model; default: auto."
    ),
)
def probe(
    session: Session,
    reference: str,
    *,
    precision: RequestedPrecision | None = None,
    **options: Any,
) -> None:
    """Compare the predictions of two models on the same prompts.

    Without --against, compare base model + adapter with the fused model, to show what the fuse lost. `--against base`
    shows whether the adapter changed anything. `--against REF2` compares two adapters. Losses are recorded as evaluations
    (probe.loss and others), except on the built-in prompts.

    Examples:
      fusery eval probe course_rec@2 --prompts questions.jsonl
      fusery eval probe course_rec@2 --against course_rec@1
    """
    from fusery.registry.fusion.request import FuseRequest

    request = FuseRequest(precision) if precision else None
    with session.two_bars() as reporter:
        report = session.registry.evaluations.probe(reference, request=request, **options, reporter=reporter)
    session.emit(report, names=[report.a.name, report.b.name], human=lambda: _print_probe(session, report))


def _print_probe(session: Session, report: ProbeReport) -> None:
    from fusery.registry.comparison.reports import ProbeReport

    about = report.about_prompts
    origin = {"file": "a file", "built-in": "built in", "held-out": f"{about.file} of its run"}
    session.print(report.conclusion if session.verbose else report.in_words())
    session.print()
    layout, figures = "prompts tokens, loss_a loss_b loss_base", "kl kl_p99, top1_agreement, seconds"
    models = [(name, f"{model}  {model.digest[:12]}") for name, model in (("a", report.a), ("b", report.b))]
    facts = record_facts(ProbeReport, f"{layout}, {figures}" if session.verbose else layout, report)
    session.facts([*models, ("source of the prompts", origin[about.origin]), *facts])
    session.print()
    titles = (*(("KL",) if session.verbose else ()), "same", "where they differ most")
    table = session.table(*titles, right=titles[:-1], free=titles[-1:])
    for row in sorted(report.rows, key=lambda row: -row.kl)[:_WORST]:
        cells = (number(row.kl), share(row.top1_agreement), row.prompt)
        table.add_row(*cells[-len(titles) :])
    session.print_table(table)
    if about.of_task is False:
        session.say("Hint: give prompts of its task that it was not trained on: --prompts test.jsonl")


@command(
    "eval bench",
    Evaluations.bench,
    document="comparison.reports:BenchReport | null",
    precisions=click.Option(
        ["--as", "precisions"],
        type=WrittenAs(PRECISIONS),
        multiple=True,
        help="Format of the fused models; repeatable; default: all that the base model allows.",
    ),
    last=": Show the last recorded results instead of measuring.",
)
def bench(session: Session, reference: str, *, last: bool = False, **options: Any) -> int:
    """Measure size, load time, speed and memory of an adapter's models.

    The models are the base model, the adapter on it, and the fused model in each format. The results are recorded in the
    log and as evaluations, such as bench.adapter.tokens_per_second. Exit code 3: --last finds no results.

    Example: fusery eval bench course_rec@latest --as keep --as mixed
    """
    if last and options["precisions"]:
        raise click.UsageError("--last measures nothing.")
    evaluations = session.registry.evaluations
    if not last:
        report = evaluations.bench(reference, **options, reporter=session.reporter())
    elif (recorded := evaluations.last_bench(reference)) is not None:
        report = recorded
    else:
        session.say(f"Nothing was measured of {reference} yet: fusery eval bench {reference}")
        session.emit(None, names=[], human=lambda: None)
        return 3
    session.emit(report, names=[*filter(None, [report.choice])], human=lambda: print_bench(session, report))
    return 0


def print_bench(session: Session, report: BenchReport) -> None:
    """Print what was measured of each form, and which one to ship."""
    from fusery.registry.comparison.reports import FormCost

    columns = "label error bytes load_seconds first_token_seconds tokens_per_second peak_bytes fidelity"
    cells: dict[str, Callable[[FormCost], str]] = {
        "error": lambda row: row.error or ("<- ship this" if row.label == report.choice else "-"),
        "fidelity": lambda row: share(None if row.fidelity is None else row.fidelity.retained),
    }
    session.print_table(record_table(FormCost, report.rows, columns, **cells))
    machine = report.machine
    cores = "cores" if machine.cores is None else plural(machine.cores, "core")
    session.print(
        f"{report.adapter} on {report.base}; {machine.processor}, {cores}, mlx {machine.mlx}; "
        f"{report.prompt_tokens} + {plural(report.tokens, 'token')}, {plural(report.runs, 'round')}"
    )
    session.print(f"Ship: {report.choice or 'nothing of this'}")
    for reason in report.reasons:
        session.print(f"  {reason}")
