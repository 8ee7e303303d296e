"""`fusery alias`, `promote` and `yank`: which version a name means, under which rules, and what is withdrawn."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.api.aliases import Aliases
from fusery.registry.names import dataset_name
from fusery.registry.parsing import plural
from fusery.storage.errors import typed

from .command import command, listing, prints
from .session import Session, is_interactive
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.record import Record
    from fusery.registry.records.release import AliasHolder, AliasRules, Moved, Promotion, RemovedRules, Yank


def _print_move(session: Session, move: Moved) -> None:
    if not move.moved:
        session.print(f"{move.alias} holds {move.to or 'nothing'} already.")
    elif move.to is None:
        session.print(f"{move.alias} holds nothing any more; it held {move.from_}.")
    else:
        before = f", before that {move.from_}" if move.from_ else ""
        session.print(f"{move.alias} holds {move.to}{before}.")
    session.warn(move)


@command("alias set", Aliases.set, adapter="REF", alias="ALIAS")
def set_alias(session: Session, adapter: str, alias: str, **reason: str) -> None:
    """Move an alias to an adapter.

    ALIAS belongs to the task of REF. Only `fusery promote` moves a guarded alias.

    Example: fusery alias set course_rec@2 prod --reason "won the A/B test"
    """
    move = session.registry.aliases.set(alias, adapter, **reason)
    session.emit(move, names=[move.to or ""], human=lambda: _print_move(session, move))


prints("alias remove", Aliases.remove, names="to", text="Remove an alias; its log entries stay.")(_print_move)
prints(
    "alias rollback",
    Aliases.roll_back,
    names="to",
    text="""Move an alias back to the adapter that held it before.

    Example: fusery alias rollback course_rec#prod --reason "wrong answers"
    """,
)(_print_move)
listing(
    "alias list",
    Aliases.list,
    "List aliases and their adapters.",
    "alias adapter withdrawals since:age by reason since",
    none="There is no alias. Hint: fusery alias set REF ALIAS",
    names="alias",
    without=("limit",),
    task="--task",
)


@prints("alias show", Aliases.show, names="adapter")
def show(session: Session, shown: AliasHolder) -> None:
    """Show the adapter of an alias, now or at a date."""
    held = "held" if shown.at else "holds"
    since = f", since {shown['since']}, set by {cell(shown.by)}" if shown.adapter else ""
    moment = f" on {shown['at']}" if shown.at else ""
    session.print(f"{shown.alias} {held} {shown.adapter or 'nothing'}{moment}{since}.")
    if shown.yanked:
        session.print("  it is yanked" if shown.at is None else "  it was yanked at that time")
    for withdrawal in shown.withdrawals:
        if withdrawal.relation != "itself":
            session.print(f"  {cell(withdrawal.summary)}")


class _Yank(click.Command):
    """A command that refuses a dataset in place of adapters: `--dataset X`, or the reference `dataset:X`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a dataset with the expression for its adapters."""
        for before, word in zip(["", *args], args, strict=False):
            prefix = "" if before == "--dataset" else "--dataset=" if word.startswith("--") else "dataset:"
            if word.startswith(prefix) and before not in ("--reason", "--where"):
                where = shlex.quote(f'dataset = "{dataset_name(word.removeprefix(prefix))}"')
                hint = f"Hint: fusery yank --where {where} --reason TEXT"
                raise click.UsageError(f"A dataset is not an adapter.\n{hint}", ctx)
        return super().parse_args(ctx, args)


_YANKED = "records.release:Yank | records.release:LiftedYank | [records.release:Yank] | [records.release:LiftedYank]"


@command(
    "yank",
    document=_YANKED,
    excludes=("undo", "dry_run"),
    references="[REF...]",
    where="EXPR: Instead of REF: all adapters that match, as in fusery list.",
    reason="TEXT: Reason, for the log; required, except with --undo.",
    kind=_Yank,
    undo=": Undo the yank.",
    dry_run=": Only list what a yank would affect.",
)
def yank(
    session: Session,
    references: tuple[str, ...] = (),
    *,
    where: str | None = None,
    reason: str = "",
    undo: bool = False,
    yes: bool = False,
    dry_run: bool = False,
) -> None:
    """Withdraw adapters: new fuses, bundles and servers refuse them.

    The command lists what it affects, asks, and yanks all adapters or none. Their records stay. A running server serves
    an adapter until its alias moves or the server is restarted.

    Examples:
      fusery yank course_rec@2 --reason "trained on the test set"
      fusery yank --where "dataset = courses" --reason "the data were withdrawn"
    """
    adapters = session.registry.adapters
    if undo:
        lifted = adapters.unyank_all(references, where=where, reason=reason)
        lines = [f"{row.name} {'may be used again' if row.changed else 'was not yanked'}." for row in lifted]
        names = [row.name for row in lifted]
        session.emit(_one_or_all(lifted), names=names, human=lambda: session.print_lines(lines))
        return
    if asks := reason.strip() and not (dry_run or yes) and is_interactive():
        plan = adapters.yank_all(references, where=where, dry_run=True)
        if not (session.json or session.quiet):
            _print_yanks(session, plan)
        session.confirm(f"Yank {plural(sum(row.changed for row in plan), 'adapter')}?")
        references, where = tuple(row.name for row in plan), None
    yanks = adapters.yank_all(references, where=where, reason=reason, dry_run=dry_run)

    def human() -> None:
        if asks:
            session.print_lines(map(_yank_line, yanks))
        else:
            _print_yanks(session, yanks)
        if dry_run:
            session.print("Nothing was written.")
            return
        steps = []
        if held := [alias for row in yanks for alias in row.aliases]:
            alias = next(filter(session.registry.aliases.rollback_target, held), None)
            steps.append(f"alias rollback {alias} --reason TEXT" if alias else f"alias remove {held[0]}")
        if places := [deployment.place for row in yanks for deployment in row.deployments]:
            steps.append(f"deploy end {typed(places[0])} --reason TEXT")
        if steps:
            session.say(f"Next: {', and '.join(f'fusery {step}' for step in steps)}")

    session.emit(_one_or_all(yanks), names=[row.name for row in yanks], human=human)


def _one_or_all(records: Sequence[Record]) -> Record | Sequence[Record]:
    return records[0] if len(records) == 1 else records


def _yank_line(row: Yank) -> str:
    if row.changed:
        return f"{row.name} would be yanked" if row.dry_run else f"{row.name} is yanked: {row.reason}"
    return f"{row.name} is yanked already, by {row.by} on {cell(row.at)}: {row.reason}"


def _print_yanks(session: Session, yanks: Sequence[Yank]) -> None:
    together = {row.name for row in yanks}
    for row in yanks:
        session.print(_yank_line(row))
        lines = [f"{alias} holds it" for alias in row.aliases]
        lines += [f"it was fused: {key[:12]}" for key in row.fused]
        lines += [f"it was shipped: {bundle.target} bundle in {bundle.path}" for bundle in row.bundles]
        lines += [f"it runs at {cell(run.place)}, since {run['at']}" for run in row.deployments]
        for names, relation in (
            (row.same_bytes, "the same bytes are {}, which is not yanked by this"),
            (row.same_weights, "the same weights are in {}, which is not yanked by this"),
            (row.continued, "it was continued to {}, which is not yanked by this"),
            (row.computed, "{} was computed from these weights, and is not yanked by this"),
        ):
            lines += [relation.format(cell(name)) for name in names if name not in together]
        session.print_lines(f"  {line}" for line in lines)


_TARGET = "ALIAS|TASK#ALIAS"
_OUTCOMES = {"passed": "passed", "failed": "FAILED", "unknown": "unknown"}


@command(
    "alias rules set",
    rare="licences authenticated guarded",
    document="releases.rules:SetRules",
    target=_TARGET,
    file=": TOML or JSON file of rules; options take precedence.",
    admission="clean|no_errors: Require admission without warnings and errors (clean), or without errors.",
    fidelity=(
        "--fidelity: Require a recorded fuse with at least this verdict.",
        click.Choice(["PASS", "DEGRADED"]),
    ),
    val_loss_within=(
        "E: Require a validation loss at most E worse than that of the current version.",
        click.FLOAT,
    ),
    metrics='--metric RULE...: Require a metric: "mmlu.acc >= 0.6", "loss <= 2", "mmlu.acc within 0.01 on test"; repeatable.',
    signed=": Require a signature by a key that is trusted for the alias.",
    licences="--licence ID...: Require one of these licences of the base model; repeatable.",
    approvals="N: Require approvals by N people other than the author.",
    authenticated=": Count only approvals through a server, with a token.",
    guarded="--guarded/--open: Let only promote move the alias, or also alias set; without other options, keep the rules.",
)
def set_rules(
    session: Session,
    target: str,
    *,
    file: Path | None = None,
    guarded: bool | None = None,
    reason: str = "",
    dry_run: bool = False,
    **options: Any,
) -> None:
    """Set the rules of an alias; they replace its previous rules.

    ALIAS alone applies to every task; rules of TASK#ALIAS replace these for one task. `within E` allows a metric to be at
    most E worse than that of the current version, on the same dataset and split.

    Examples:
      fusery alias rules set prod --admission no_errors --fidelity PASS
      fusery alias rules set course_rec#prod --metric "mmlu.acc >= 0.6"
    """
    from fusery.registry.releases.rules import metric_rules, read_rules

    rules: dict[str, object] = {}
    if file is not None:
        rules, file_guarded = read_rules(file)
        guarded = file_guarded if guarded is None else guarded
    options["licences"] = [*options["licences"]] or None
    options["metrics"] = metric_rules(options["metrics"]) or None
    rules |= {name: value for name, value in options.items() if value is not None and value is not False}
    if not rules and guarded is None:
        raise click.UsageError("No rule is given.\nHint: fusery alias rules set prod --approvals 1")
    wanted = rules if rules or file is not None else None
    done = session.registry.aliases.set_rules(target, wanted, guarded=guarded, reason=reason, dry_run=dry_run)

    def human() -> None:
        show_rules(session, done)
        if dry_run:
            session.print("Nothing was written.")
        elif not done.changed:
            session.print("They were so already.")
        session.print(f"  applies to  {', '.join(done.applies_to) or 'no alias yet'}")

    session.emit(done, names=[done.alias], human=human)


@prints("alias rules show", Aliases.rules, names="alias", target=_TARGET)
def show_rules(session: Session, shown: AliasRules) -> None:
    """Show the rules that apply to an alias."""
    who = "only promote moves it" if shown.guarded else "alias set moves it as well"
    session.print(f"{shown.alias}: {who}")
    for name, value in shown.rules.items():
        session.print(f"  {name}  {_rule(name, value)}")


listing(
    "alias rules list",
    Aliases.all_rules,
    "List the rules of all aliases.",
    "alias guarded at:age by rules at",
    none="There are no rules. Hint: fusery alias rules set prod --approvals 1",
    cells={"rules": lambda row: cell({name: _rule(name, value) for name, value in row.rules.items()})},
    names="alias",
)


@prints("alias rules remove", Aliases.remove_rules, names="alias", target=_TARGET)
def remove_rules(session: Session, removed: RemovedRules, dry_run: bool) -> None:
    """Remove the rules of an alias; it is no longer guarded."""
    session.print(f"{'Would remove' if dry_run else 'Removed'} the rules of {removed.alias}.")


def _rule(name: str, value: Any) -> str:
    from fusery.registry.releases.rules import rule_words

    return cell(rule_words(name, value))


@command("promote", Aliases.promote, alias="ALIAS")
def promote(session: Session, reference: str, alias: str, **options: Any) -> int:
    """Move an alias to an adapter that meets the alias's rules.

    On a server, a publisher may promote to an alias without the rule `guarded`, an approver to any. The log records a refusal.
    Exit codes: 0 moved, 1 a rule failed, 3 a rule cannot be decided.

    Example: fusery promote course_rec@2 prod --reason "first release"
    """
    promotion = session.registry.aliases.promote(reference, alias, **options)
    # What the alias holds afterwards, as for `alias set`; nothing where it was refused.
    names = [promotion.adapter] * (promotion.verdict == "passed")
    session.emit(promotion, names=names, human=lambda: _print_promotion(session, promotion))
    return promotion.exit_code


def _print_promotion(session: Session, promotion: Promotion) -> None:
    for outcome in promotion.rules:
        code = f" ({outcome.code})" if outcome.code else ""
        session.print(f"  {_OUTCOMES[outcome.state]:<8}{outcome.rule}: {cell(outcome.why)}{code}")
    session.print(_sentence(promotion))
    for outcome in promotion.rules:
        if outcome.state != "passed" and outcome.hint:
            session.say(f"Hint: {cell(outcome.hint)}")
    if promotion.verdict == "passed" and promotion.holder not in (None, promotion.adapter):
        better = session.registry.adapters.compare([promotion.holder, promotion.adapter]).better
        if better.reference is not None and better.reference == next(iter(better.values_)):
            session.say(f"Note: {cell(better.sentence)}")
    if promotion.verdict == "passed" and not promotion.dry_run:
        session.say(f"Next: fusery materialize {typed(promotion.alias)} DEST")


def _sentence(promotion: Promotion) -> str:
    alias, adapter, holder = promotion.alias, promotion.adapter, promotion.holder
    if promotion.verdict != "passed":
        word = "Refused" if promotion.verdict == "failed" else "Undecided"
        return f"{word}: {alias} still holds {holder or 'no adapter'}."
    if promotion.confirmed:
        return f"{alias} holds {adapter} already, and was judged once more: what it was judged by had been amended."
    if holder == adapter:
        return f"{alias} holds {adapter} already."
    before = f", before that {holder}" if holder else ""
    return f"{alias} {'would hold' if promotion.dry_run else 'holds'} {adapter}{before}."


@command("alias approve", Aliases.approve, alias="ALIAS", withdraw=": Withdraw your approval.")
def approve(session: Session, reference: str, alias: str, *, note: str = "", withdraw: bool = False) -> None:
    """Approve an adapter for an alias.

    A rule of the alias may require approvals. You cannot approve your own adapter.

    Example: fusery alias approve course_rec@2 prod --note "read 40 answers"
    """
    aliases = session.registry.aliases
    approval = (aliases.withdraw_approval if withdraw else aliases.approve)(reference, alias, note=note)

    def human() -> None:
        if withdraw:
            done = "withdrawn" if approval.changed else "there was no approval of yours"
            session.print(f"{approval.adapter} for {approval.alias}: {done}.")
        else:
            already = "" if approval.changed else " already"
            session.print(f"{approval.adapter} is approved for {approval.alias}{already}.")
        session.print(f"  approvals: {', '.join(map(cell, approval.approvals)) or 'none'}")
        if not withdraw:
            session.warn(approval)

    session.emit(approval, names=[approval.adapter], human=human)
