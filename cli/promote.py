"""`fusery promote` and `approve`: an alias moves to what fulfils its rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.records.release import Promotion

_REF = click.argument("reference", metavar="REF")
_ALIAS = click.argument("alias", metavar="ALIAS")
_MARKS = {"passed": "passed", "failed": "FAILED", "unknown": "unknown"}


@command("promote")
@_REF
@_ALIAS
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
@click.option("--dry-run", is_flag=True, help="Evaluate the rules only; nothing is moved or logged.")
def promote_command(session: Session, reference: str, alias: str, reason: str, dry_run: bool) -> int:
    """Let an alias hold REF if REF fulfils its rules.

    It is said which rule REF does not fulfil.

    Exit code 0 when it does, 1 when a rule failed, 3 when one cannot be decided.  A refusal is in the log, with its
    reasons.
    """
    promotion = session.registry.aliases.promote(reference, alias, reason=reason, dry_run=dry_run)

    def human() -> None:
        for outcome in promotion.rules:
            code = f" ({outcome.code})" if outcome.code else ""
            session.print(f"  {_MARKS[outcome.state]:<8}{outcome.rule}: {cell(outcome.why)}{code}")
        session.print(_sentence(promotion))
        for outcome in promotion.rules:
            if outcome.state != "passed" and outcome.hint:
                session.say(f"Hint: {cell(outcome.hint)}")

    # What the alias holds afterwards, as for `alias set`; nothing where it was refused.
    names = [promotion.adapter] if promotion.verdict == "passed" else []
    session.emit(promotion, names=names, human=human)
    return promotion.exit_code


def _sentence(promotion: Promotion) -> str:
    alias, adapter, holder = promotion.alias, promotion.adapter, promotion.holder
    if promotion.verdict != "passed":
        stays = f"{alias} stays with {holder}" if holder else f"{alias} stays with nobody"
        return f"{'Refused' if promotion.verdict == 'failed' else 'Undecided'}: {stays}."
    if promotion.confirmed:
        return f"{alias} holds {adapter} already, and was judged once more: what it was judged by had been amended."
    if holder == adapter:
        return f"{alias} holds {adapter} already."
    before = f", before that {holder}" if holder else ""
    if promotion.dry_run:
        return f"{alias} would hold {adapter}{before}."
    return f"{alias} holds {adapter}{before}."


@command("approve")
@_REF
@_ALIAS
@click.option("--note", default="", metavar="TEXT", help="What was looked at, for the log.")
@click.option("--withdraw", is_flag=True, help="Take the own approval back.")
def approve_command(session: Session, reference: str, alias: str, note: str, withdraw: bool) -> None:
    """Approve of an alias holding REF.

    This is for a rule that asks for approvals; nobody approves of their own adapter.
    """
    if withdraw:
        approval = session.registry.aliases.withdraw_approval(reference, alias, note=note)
    else:
        approval = session.registry.aliases.approve(reference, alias, note=note)

    def human() -> None:
        who = ", ".join(cell(name) for name in approval.approvals) or "nobody"
        if withdraw:
            done = "withdrawn" if approval.changed else "there was no approval of yours"
            session.print(f"{approval.adapter} for {approval.alias}: {done}.")
        else:
            already = "" if approval.changed else " already"
            session.print(f"{approval.adapter} is approved for {approval.alias}{already}.")
        session.print(f"  approved by {who}")
        if not withdraw:
            session.warn(approval)

    session.emit(approval, names=[approval.adapter], human=human)
