"""`fusery trust`: making keys, and saying whose signatures count for which aliases."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.parsing import plural
from fusery.storage.shell import typed

from .columns import record_table
from .groups import Group
from .session import LocalPath, Session, command

if TYPE_CHECKING:
    from fusery.registry.records.signature import TrustedKey

PASSPHRASE = "FUSERY_KEY_PASSPHRASE"
"""Variable of the environment that holds the passphrase of a private key."""

passphrase_option = click.option(
    "--passphrase-file",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help=f"Read the key's passphrase from a file; else from {PASSPHRASE}, else it is asked for.",
)


def passphrase_from(file: Path | None) -> Callable[[], bytes]:
    """Return what gives a passphrase when one is asked for: a file, the environment, or the person at the terminal."""

    def give() -> bytes:
        known = _given(file)
        if known is not None:
            return known
        if not sys.stdin.isatty():
            from fusery.registry.signing.sign import no_passphrase

            return no_passphrase()
        return click.prompt("Passphrase of the key", hide_input=True, err=True).encode()

    return give


def _given(file: Path | None) -> bytes | None:
    if file is not None:
        from fusery.storage.opening import opened

        with opened(file) as content:
            return content.read(4096).rstrip(b"\r\n")
    value = os.environ.get(PASSPHRASE)
    return os.fsencode(value) if value else None


@click.group("trust", cls=Group)
def trust_command() -> None:
    """Make keys, and say whose signatures count for which aliases."""


@command("keygen")
@click.argument("name", metavar="NAME")
@passphrase_option
@click.option("--lock", is_flag=True, help="Ask for a passphrase that locks the private key.")
def keygen_command(session: Session, name: str, passphrase_file: Path | None, lock: bool) -> None:
    """Make a pair of keys: NAME.pem and NAME.pub.

    NAME.pem is for you alone, NAME.pub for everybody; they are on the curve P-256.  The private key is locked with a
    passphrase if one is given, by --passphrase-file, the environment or --lock.
    """
    from fusery.registry.dsse.keys import make_pair

    secret = _given(passphrase_file)
    if secret is None and lock:
        secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
    private = Path(name if name.endswith(".pem") else f"{name}.pem")
    made = make_pair(private, secret)

    def human() -> None:
        locked = "locked with a passphrase" if made.locked else "readable by you alone, and not locked"
        session.print(f"{made.private}  the private key, {locked}")
        session.print(f"{made.public}  the public key, for whoever verifies")
        session.print(f"The key is {made.key_id}.")
        session.say(f"Next: fusery trust add NAME {typed(made.public)} --for '*#prod'")

    session.emit(made, names=[str(made.private), str(made.public)], human=human)


@command("add")
@click.argument("name", metavar="NAME")
@click.argument("key", metavar="PUBKEY.pem", type=LocalPath(path_type=Path))
@click.option(
    "--for",
    "aliases",
    multiple=True,
    metavar="TASK#ALIAS",
    help="For which aliases, with * and ?: 'course_rec#*', '*#prod'; may be given again.",
)
@click.option(
    "--fused",
    is_flag=True,
    help="For fused artifacts of other registries: those that it has signed count as if they were made here.",
)
def add_command(session: Session, name: str, key: Path, aliases: tuple[str, ...], fused: bool) -> None:
    """Let the signatures of a public key count.

    NAME is what the key is called here.  What it counts for is said anew each time: --for for aliases, --fused for
    fused artifacts of other registries.
    """
    added = session.registry.trust.add_key(name, key, aliases, fused=fused)

    def human() -> None:
        session.print(f"{added.name} counts for {_purposes(added)}.")

    session.emit(added, names=[added.name], human=human)


@command("list", table=True)
def list_command(session: Session) -> None:
    """List the keys that count, and those that were revoked."""
    keys = session.registry.trust.list_keys()

    def human() -> None:
        from fusery.registry.records.signature import TrustedKey

        columns = "name aliases revoked_at created_at:age signatures key_id created_at"
        session.print_table(record_table(TrustedKey, keys, columns, aliases=_purposes))
        if not keys:
            session.say("No key is trusted. Hint: fusery trust add NAME KEY.pub --for '*#prod'")

    session.emit(keys, names=[key.name for key in keys], human=human)


def _purposes(key: TrustedKey) -> str:
    return ", ".join([*key.aliases, *(["fused artifacts"] if key.fused else [])]) or "nothing"


@command("revoke")
@click.argument("name", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def revoke_command(session: Session, name: str, reason: str) -> None:
    """Let no signature of a key count any more.

    Those that it has made do not count any more, either.
    """
    revoked = session.registry.trust.revoke_key(name, reason=reason)

    def human() -> None:
        session.print(
            f"{revoked.name} is revoked: {plural(revoked.signatures, 'signature')} by it count no more."
        )

    session.emit(revoked, names=[revoked.name], human=human)


for _command in (keygen_command, add_command, list_command, revoke_command):
    trust_command.add_command(_command)
