"""`fusery login`: the token for a server's registry."""

from __future__ import annotations

import sys

import click

from .session import Session, command
from .text import when


@command("login")
@click.argument("url", metavar="URL")
@click.option("--remove", is_flag=True, help="Remove the stored token instead.")
def login_command(session: Session, url: str, remove: bool) -> None:
    """Store the token for a server's registry.

    Then every command works on that registry with --registry URL.  The token is asked for, or read from standard input, and checked with the server.  It is stored in the system's
    keyring (with the extra `keyring`), or in a file that only you can read.  FUSERY_TOKEN, where it is set, is used
    instead of it.

    \b
    fusery login https://fusery.example.org
    fusery --registry https://fusery.example.org list
    """  # noqa: D301 -- click wants the character
    from fusery.registry import Registry
    from fusery.registry.remote.address import ServerAddress
    from fusery.registry.remote.login import forget_token, store_token

    address = ServerAddress.parse(url)
    if remove:
        removed = forget_token(address.url)
        text = (
            f"Removed the token for {address.url}." if removed else f"No token for {address.url} is stored."
        )
        session.line({"url": address.url, "removed": removed}, name=address.url, text=text)
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

    session.emit({"url": address.url, **identity}, names=[address.url], human=human)


def _given() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Token", hide_input=True, err=True)).strip()
    return sys.stdin.readline(8_192).strip()
