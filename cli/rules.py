"""`fusery rules`: what an adapter has to fulfil before an alias may hold it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .groups import Group
from .session import LocalPath, Session, command
from .text import ago, cell, when

if TYPE_CHECKING:
    from fusery.registry.records.release import AliasRules

_TARGET = click.argument("target", metavar="ALIAS|TASK#ALIAS")
_REASON = click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
_DRY = click.option("--dry-run", is_flag=True, help="Show it only; nothing is written.")


@click.group("rules", cls=Group)
def rules_command() -> None:
    """Say what an adapter has to fulfil to hold an alias.

    An alias such as prod is guarded by its rules; `promote` asks for them.
    """


@command("set")
@_TARGET
@click.option(
    "--file",
    "file",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="Take rules from a TOML or JSON file; options win over it.",
)
@click.option(
    "--admission",
    type=click.Choice(["clean", "no_errors"]),
    help="Admission found no warning and no error, or no error.",
)
@click.option(
    "--fidelity",
    type=click.Choice(["PASS", "DEGRADED"]),
    help="A fuse of it on record has at least this verdict.",
)
@click.option(
    "--val-loss-within",
    type=float,
    metavar="E",
    help="Its validation loss is at most E worse than that of the holder.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="RULE",
    help='A metric of it, such as "mmlu.acc >= 0.6", "loss <= 2" or "mmlu.acc within 0.01 on test"; repeatable.',
)
@click.option("--signed", is_flag=True, default=None, help="A key that counts for the alias has signed it.")
@click.option(
    "--licence",
    "licences",
    multiple=True,
    metavar="ID",
    help="Its base is under this licence, or under another one of those given.",
)
@click.option("--approvals", type=int, metavar="N", help="N people other than its author have approved.")
@click.option(
    "--authenticated",
    is_flag=True,
    default=None,
    help="Only approvals given through a server, with a token, count.",
)
@click.option(
    "--guarded/--open",
    "guarded",
    default=None,
    help="Whether promote alone moves the alias (so if nothing is said), or alias set as well; alone, it keeps the rules.",
)
@_REASON
@_DRY
def set_command(
    session: Session,
    target: str,
    file: Path | None,
    guarded: bool | None,
    reason: str,
    dry_run: bool,
    **options: Any,
) -> None:
    """Give an alias these rules instead of those that it had.

    ALIAS alone is for every task; rules for TASK#ALIAS come before those.  A rule that is not named is not asked for,
    and an alias that was open is guarded again without --open.  A metric `within` E is at most E worse than that of the
    holder, measured on the same dataset and split.
    """
    rules: dict[str, Any] = {}
    if file is not None:
        from fusery.registry.releases.rules import read_rules

        rules, said = read_rules(file)
        guarded = said if guarded is None else guarded
    rules |= {name: value for name, value in options.items() if value not in (None, ())}
    if "licences" in rules:
        rules["licences"] = list(rules["licences"])
    if options["metrics"]:
        from fusery.registry.releases.rules import metric_rules

        rules["metrics"] = metric_rules(options["metrics"])
    if not rules and guarded is None:
        raise click.UsageError("No rule is given.\nHint: fusery rules set prod --approvals 1")
    wanted = rules if rules or file is not None else None
    shown = session.registry.aliases.set_rules(
        target, wanted, guarded=guarded, reason=reason, dry_run=dry_run
    )

    def human() -> None:
        _print(session, shown)
        if dry_run:
            session.print("Nothing was written.")
        elif not shown.changed:
            session.print("They were so already.")
        applies = ", ".join(shown.applies_to) or "no alias yet"
        session.print(f"  applies to  {applies}")

    session.emit(shown, names=[shown.alias], human=human)


@command("show")
@_TARGET
def show_command(session: Session, target: str) -> None:
    """Show the rules that count for an alias."""
    shown = session.registry.aliases.rules(target)
    session.emit(shown, names=[shown.alias], human=lambda: _print(session, shown))


@command("list", table=True)
def list_command(session: Session) -> None:
    """List the rules of all aliases."""
    found = session.registry.aliases.all_rules()

    def human() -> None:
        titles = ("alias", "guarded", "age", "by", "rules", "since")
        table = session.table(*titles, right=("age",), free=("rules",))
        for row in found:
            table.add_row(
                cell(row.alias),
                cell(row.guarded),
                ago(row.at),
                cell(row.by),
                cell({name: _said(name, value) for name, value in row.rules.items()}),
                when(row.at),
            )
        session.print_table(table)
        if not found:
            session.say("There are no rules. Hint: fusery rules set prod --approvals 1")

    session.emit(found, names=[row.alias for row in found], human=human)


@command("remove")
@_TARGET
@_REASON
@_DRY
def remove_command(session: Session, target: str, reason: str, dry_run: bool) -> None:
    """Take the rules of an alias away; it is not guarded any more."""
    shown = session.registry.aliases.remove_rules(target, reason=reason, dry_run=dry_run)

    def human() -> None:
        session.print(f"{'Would remove' if dry_run else 'Removed'} the rules of {shown.alias}.")

    session.emit(shown, names=[shown.alias], human=human)


def _print(session: Session, shown: AliasRules) -> None:
    who = "only promote moves it" if shown.guarded else "alias set moves it as well"
    session.print(f"{shown.alias}: {who}")
    for name, value in shown.rules.items():
        session.print(f"  {name}  {_said(name, value)}")


def _said(name: str, value: Any) -> str:
    from fusery.registry.releases.rules import rule_words

    return cell(rule_words(name, value))


for _command in (set_command, show_command, list_command, remove_command):
    rules_command.add_command(_command)
