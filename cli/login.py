"""`fusery login`: store the token for a server's registry."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime

import click

from fusery.registry.record import Record, described
from fusery.registry.records.token import Role

from .session import Session, command
from .text import when


@dataclass(frozen=True, slots=True, kw_only=True)
class Login(Record):
    """The result of `fusery login`."""

    url: str = described("URL of the server")
    stored: bool = described("whether a token is stored")
    name: str | None = described("name of the token, under which the server records your actions")
    role: Role | None = described("role of the token")
    expires_at: datetime | None = described("when the token expires")


@command("login")
@click.argument("url", metavar="URL")
@click.option("--remove", is_flag=True, help="Remove the stored token instead.")
def login_command(session: Session, url: str, remove: bool) -> None:
    """Store the token for a server's registry.

    Type the token at the prompt, or pass it on standard input; the server verifies it.  It is stored in the
    system's keyring (with the extra keyring), or in a file that only you can read.  FUSERY_TOKEN takes
    precedence.  Then every command works on the server's registry: fusery --registry URL list.
    """
    from fusery.registry import Registry
    from fusery.registry.remote.address import ServerAddress
    from fusery.registry.remote.login import forget_token, store_token

    address = ServerAddress.parse(url)
    if remove:
        removed = forget_token(address.url)
        text = f"Removed the token for {address.url}." if removed else f"Token not found for {address.url}."
        left = Login(url=address.url, stored=False, name=None, role=None, expires_at=None)
        session.emit(left, names=[address.url], human=lambda: session.print(text))
        return
    token = _given()
    with Registry.open(address.url, token=token) as registry:
        identity = registry.tokens.own()
    place = store_token(address.url, token)

    def human() -> None:
        until = f", valid until {when(identity.expires_at)}" if identity.expires_at else ""
        session.print(f"Logged in to {address.url} as {identity.name}, {identity.role}{until}.")
        session.say(f"The token is in {place}.")
        session.hint(f"fusery --registry {address.url} list")

    found = Login(
        url=address.url,
        stored=True,
        name=identity.name,
        role=identity.role,
        expires_at=identity.expires_at,
    )
    session.emit(found, names=[address.url], human=human)


def _given() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Token", hide_input=True, err=True)).strip()
    return sys.stdin.readline(8_192).strip()
