"""`fusery eval`: what was measured of adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.parsing import plural

from .columns import record_table
from .groups import Group
from .session import LocalPath, Session, command
from .tables import Table

if TYPE_CHECKING:
    from fusery.registry.records.evaluation import Evaluation

_MOST = 2**31 - 1

RECORD = click.option("--no-record", "record", flag_value=False, default=True, help="Put nothing on record.")


@click.group("eval", cls=Group)
def eval_command() -> None:
    """Record and list what was measured of an adapter.

    Beside its validation loss: accuracy, perplexity, or a figure of your own.
    """


@command("record", table=True)
@click.argument("reference", metavar="REF")
@click.argument("results", type=LocalPath(path_type=Path), metavar="RESULTS.json")
@click.option("--dataset", metavar="D", help="What was measured on, if the file does not say it.")
@click.option("--split", metavar="S", help="Of the dataset, such as test.")
@click.option("--harness", metavar="H", help="The program that measured.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of the measurement.")
@click.option("--dry-run", is_flag=True, help="Show it only; nothing is written.")
def record_command(session: Session, reference: str, results: Path, dry_run: bool, **setting: Any) -> None:
    """Record what was measured of REF.

    RESULTS.json is what lm-evaluation-harness or lighteval wrote, or a plain map of metrics to values, such as
    {"accuracy": 0.91, "dataset": "courses", "split": "test"}.

    A metric of a harness is called TASK.METRIC, such as mmlu.acc.  What is on record already stays; another value of
    the same metric, measured on and with the same, is refused, and nothing of the file is recorded.
    """
    done = session.registry.evaluations.record(reference, results, dry_run=dry_run, **setting)

    def human() -> None:
        what = plural(len(done.recorded), "metric")
        session.print(f"{'Would record' if dry_run else 'Recorded'} {what} of {done.adapter}.")
        if done.recorded:
            session.print_table(_table(done.recorded))
        if done.known:
            session.say(f"{plural(len(done.known), 'metric')} with the same value on record already.")

    session.emit(done, names=[each.metric for each in done.recorded], human=human)


@command("run", table=True)
@click.argument("reference", metavar="REF")
@click.option("--task", "tasks", multiple=True, metavar="T", help="Of the harness; may be given again.")
@click.option("--include", type=LocalPath(path_type=Path), metavar="DIR", help="Further tasks, as YAML.")
@click.option("--shots", type=click.IntRange(0, 1000), metavar="N", help="Solved examples in each prompt.")
@click.option(
    "--seed", type=click.IntRange(0, _MOST), metavar="N", help="Of what a harness draws; default 0."
)
@click.option(
    "--prompts", type=LocalPath(path_type=Path), metavar="FILE", help="Without --task: as of fusery probe."
)
@click.option("--limit", type=click.IntRange(min=1, max=_MOST), metavar="N", help="Only the first N of each.")
def run_command(
    session: Session, reference: str, tasks: tuple[str, ...], prompts: Path | None, **options: Any
) -> None:
    """Measure REF put on its base, and record what came out.

    Without --task: measure the loss, and the gain over the base, on the run's held-out data (test.jsonl or valid.jsonl) or on
    --prompts FILE.  If the held-out data are not found, --prompts is required.  With --task: run tasks of
    lm-evaluation-harness, such as --task arc_easy; tasks of a DIR may run code of their own.

    What was measured before, on and with the same, is withdrawn for the new value.
    """
    said = {name: value for name, value in options.items() if value is not None}
    if tasks and prompts is not None:
        raise click.UsageError("--prompts is for what is measured without --task.")
    if not tasks and (only := sorted(said.keys() - {"limit"})):
        raise click.UsageError(f"--{only[0]} goes with --task.")
    done = session.registry.evaluations.run(
        reference, tasks=tasks, prompts=prompts, reporter=session.reporter(), **said
    )

    def human() -> None:
        session.print(f"Recorded {plural(len(done.recorded), 'metric')} of {done.adapter}.")
        if done.recorded:
            session.print_table(_table(done.recorded))
        if done.known:
            session.say(f"{plural(len(done.known), 'metric')} with the same value on record already.")

    session.emit(done, names=[*(each.metric for each in done.recorded), *done.known], human=human)


@command("withdraw", table=True)
@click.argument("reference", metavar="REF")
@click.argument("metric", metavar="METRIC", required=False)
@click.option("--reason", default="", metavar="TEXT", help="Why; needed.")
@click.option("--dataset", metavar="D", help="Only what was measured on this.")
@click.option("--split", metavar="S", help="Only of this split.")
@click.option("--harness", metavar="H", help="Only by this program.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Only with this seed.")
@click.option("--dry-run", is_flag=True, help="Show it only; nothing is written.")
def withdraw_command(
    session: Session, reference: str, metric: str | None, dry_run: bool, reason: str, **setting: Any
) -> None:
    """Withdraw what was recorded wrongly of REF.

    All that fits METRIC and the options.  It counts no more, in lists, rules and comparisons; the log keeps what it was,
    who withdrew it and why.  The right value can be recorded in its place.
    """
    done = session.registry.evaluations.withdraw(reference, metric, reason=reason, dry_run=dry_run, **setting)

    def human() -> None:
        what = plural(len(done.withdrawn), "metric")
        session.print(f"{'Would withdraw' if dry_run else 'Withdrew'} {what} of {done.adapter}.")
        session.print_table(_table(done.withdrawn))

    session.emit(done, names=[each.metric for each in done.withdrawn], human=human)


@command("list", table=True)
@click.argument("reference", metavar="REF", required=False)
@click.option("--metric", metavar="NAME", help="Only of this name.")
@click.option("--limit", type=click.IntRange(min=1, max=_MOST), metavar="N", help="Only the newest N.")
def list_command(session: Session, reference: str | None, metric: str | None, limit: int | None) -> None:
    """List what was measured, of REF or of all adapters.

    In the order in which it was recorded; of several values of a metric, the last one counts.
    """
    found = session.registry.evaluations.list(reference, metric=metric, limit=limit)

    def human() -> None:
        session.print_table(_table(found, adapter=True))
        if not found:
            session.say("Nothing was measured. Hint: fusery eval record REF RESULTS.json")

    session.emit(found, names=[each.metric for each in found], human=human)


def print_evaluations(session: Session, found: Sequence[Evaluation]) -> None:
    """Print the newest evaluations of an adapter, one a line."""
    if rows := session.newest(found, "evaluations"):
        session.print("measured")
        for line in _table(rows).laid(None).rows:
            session.print(f"  {line}")


def _table(found: Iterable[Evaluation], *, adapter: bool = False) -> Table:
    from fusery.registry.records.evaluation import Evaluation

    columns = "metric value stderr dataset split shots seed samples harness at:age by"
    return record_table(Evaluation, found, f"adapter {columns}" if adapter else columns, harness=_harness)


def _harness(row: Evaluation) -> str:
    return " ".join(part for part in (row.harness, row.harness_version) if part) or "-"


for _made in (record_command, run_command, withdraw_command, list_command):
    eval_command.add_command(_made)
