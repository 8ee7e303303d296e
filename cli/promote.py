"""`fusery promote` and `approve`: an alias moves to what fulfils its rules."""

from __future__ import annotations

from typing import Any

import click

from .session import Session, command
from .text import cell

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
    found = promotion.to_dict()

    def human() -> None:
        for rule in found["rules"]:
            session.print(f"  {_MARKS[rule['state']]:<8}{rule['rule']}: {cell(rule['why'])}")
        session.print(_sentence(found))
        for hint in [rule["hint"] for rule in found["rules"] if rule["state"] != "passed" and rule["hint"]]:
            session.say(f"Hint: {hint}")

    # What the alias holds afterwards, as for `alias set`; nothing where it was refused.
    session.emit(found, names=[found["adapter"]] if found["verdict"] == "passed" else [], human=human)
    return promotion.exit_code


def _sentence(found: dict[str, Any]) -> str:
    alias, adapter, holder = found["alias"], found["adapter"], found["holder"]
    if found["verdict"] != "passed":
        stays = f"{alias} stays with {holder}" if holder else f"{alias} stays with nobody"
        return f"{'Refused' if found['verdict'] == 'failed' else 'Undecided'}: {stays}."
    if found["confirmed"]:
        return f"{alias} holds {adapter} already, and was judged once more: what it was judged by had been amended."
    if holder == adapter:
        return f"{alias} holds {adapter} already."
    before = f", before that {holder}" if holder else ""
    if found["dry_run"]:
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
        view = session.registry.aliases.withdraw_approval(reference, alias, note=note)
    else:
        view = session.registry.aliases.approve(reference, alias, note=note)

    def human() -> None:
        who = ", ".join(cell(name) for name in view["approvals"]) or "nobody"
        if withdraw:
            session.print(
                f"{view['adapter']} for {view['alias']}: {'withdrawn' if view['changed'] else 'there was no approval of yours'}."
            )
        else:
            already = "" if view["changed"] else " already"
            session.print(f"{view['adapter']} is approved for {view['alias']}{already}.")
        session.print(f"  approved by {who}")
        if not withdraw:
            session.warn(view)

    session.emit(view, names=[view["adapter"]], human=human)
