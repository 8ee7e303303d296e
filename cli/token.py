"""`fusery token`: who may ask a server for this registry, and what they may do there."""

from __future__ import annotations

import click

from fusery.registry.access.roles import MEANINGS, ROLES
from fusery.registry.records.token import Role, Token

from .columns import record_table
from .groups import Group
from .session import Session, command
from .text import when


@click.group("token", cls=Group)
def token_command() -> None:
    """Say who may ask a server, and what they may do there."""


@command("create")
@click.argument("name", metavar="NAME")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What its bearer may do.")
@click.option(
    "--expires",
    default="90d",
    show_default=True,
    metavar="WHEN",
    help="Until when it is valid: 90d, 12h, 2027-03-01, or never.",
)
def create_command(session: Session, name: str, role: Role, expires: str) -> None:
    """Make a token, and print its secret, this once.

    NAME is whose it is: what its bearer does is recorded under it, and one person's approvals under two names would
    count twice.  The registry keeps a digest of the secret alone, so that nobody can print it again.

    A reader looks and fetches; a publisher also pushes, sets open aliases, and writes notes and tags; an approver also
    approves, promotes and yanks.  An admin may no more than that through a server: rules, keys and tokens take a login at
    the database.
    """
    made = session.registry.tokens.create(name, role, expires=expires)

    def human() -> None:
        session.print(made.secret)
        session.say(
            f"This is the secret of {made.name}, {role}, valid {_until(made)}. It is shown this once."
        )
        session.say(f"Its bearer may {MEANINGS[role]}.")

    session.emit(made, names=[made.secret], human=human)


@command("list", table=True)
@click.option("--all", "revoked", is_flag=True, help="Those that were revoked, too.")
def list_command(session: Session, revoked: bool) -> None:
    """List the tokens, without their secrets."""
    tokens = session.registry.tokens.list(revoked=revoked)

    def human() -> None:
        from fusery.registry.records.token import Token

        columns = "name role state expires_at created_at:age created_by created_at revoked_at revoked_by"
        session.print_table(record_table(Token, tokens, columns, expires_at=_expires))
        if not tokens:
            session.say("There is no token. Hint: fusery token create NAME --role reader")

    session.emit(tokens, names=[token.name for token in tokens], human=human)


@command("revoke")
@click.argument("name", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def revoke_command(session: Session, name: str, reason: str) -> None:
    """Let no server take a token any more.

    What its bearer did stays on record, and so do their approvals.
    """
    revoked = session.registry.tokens.revoke(name, reason=reason)

    def human() -> None:
        session.print(f"The token {revoked.name} is revoked: no server takes it any more.")

    session.emit(revoked, names=[revoked.name], human=human)


def _expires(token: Token) -> str:
    return when(token.expires_at) if token.expires_at else "never"


def _until(token: Token) -> str:
    return f"until {when(token.expires_at)}" if token.expires_at else "until it is revoked"


for _command in (create_command, list_command, revoke_command):
    token_command.add_command(_command)
