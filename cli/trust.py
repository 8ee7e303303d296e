"""`fusery login`, and `token`, `trust` and `webhook` of `fusery admin`: who may do what, and who hears of it."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from fusery.registry.api.provenance import Tokens, Trust
from fusery.registry.api.upkeep import Webhooks
from fusery.registry.parsing import plural
from fusery.registry.record import Record, described
from fusery.registry.records.tokens import MEANINGS
from fusery.registry.records.trust import Role
from fusery.storage.errors import typed

from .command import command, listing, prints
from .session import Session
from .sign import given_passphrase
from .text import when

if TYPE_CHECKING:
    from fusery.registry.records.event import AddedWebhook, Webhook
    from fusery.registry.records.trust import NewToken, TrustedKey


@command(
    "admin trust keygen",
    document="dsse:Pair",
    lock=": Ask for a passphrase, and encrypt the private key with it.",
)
def keygen(session: Session, name: str, *, passphrase_file: Path | None = None, lock: bool = False) -> None:
    """Create a key pair: NAME.pem and NAME.pub.

    Keep the private key NAME.pem to yourself; a passphrase encrypts it. Share the public key NAME.pub.
    """
    from fusery.registry.dsse import make_pair

    secret = given_passphrase(passphrase_file)
    if secret is None and lock:
        secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
    made = make_pair(Path(name if name.endswith(".pem") else f"{name}.pem"), secret)

    def human() -> None:
        locked = "locked with a passphrase" if made.locked else "readable by you alone, and not locked"
        session.print(f"{made.private_key}  the private key, {locked}")
        session.print(f"{made.public_key}  the public key, for verification")
        session.print(f"The key is {made.key_id}.")
        session.say(f"Next: fusery admin trust add NAME {typed(made.public_key)} --for '*#prod'")

    session.emit(made, names=[str(made.private_key), str(made.public_key)], human=human)


@prints("admin trust add", Trust.add_key, key="PUBKEY.pem", aliases="--for TASK#ALIAS")
def add(session: Session, added: TrustedKey) -> None:
    """Trust the signatures of a public key.

    NAME is the name of the key in this registry. Running the command again replaces the aliases of the key.

    Example: fusery admin trust add anna anna.pub --for 'course_rec#*'
    """
    session.print(f"{added.name} counts for {_purposes(added)}.")


def _purposes(key: TrustedKey) -> str:
    return ", ".join([*key.aliases, *(["fused artifacts"] if key.fused else [])]) or "nothing"


listing(
    "admin trust list",
    Trust.list_keys,
    "List trusted and revoked keys.",
    "name aliases revoked_at created_at:age signatures key_id created_at",
    none="No key is trusted. Hint: fusery admin trust add NAME KEY.pub --for '*#prod'",
    cells={"aliases": _purposes},
)


@prints("admin trust revoke", Trust.revoke_key)
def revoke(session: Session, key: TrustedKey) -> None:
    """Revoke a key: none of its signatures counts, earlier ones included."""
    session.print(f"{key.name} is revoked: {plural(key.signatures, 'signature')} by it count no more.")


@prints("admin token create", Tokens.create, names="secret", role="--role", expires="WHEN")
def create(session: Session, made: NewToken) -> None:
    """Create a token, and print its secret once.

    The log records actions and approvals with the token under NAME. The registry stores only a digest of the secret.

    Readers read and download. Publishers also register, push and promote to unguarded aliases. Approvers also approve,
    roll back, yank, and promote to guarded aliases. Admins also set rules, manage tokens, keys and webhooks, and audit.

    Example: fusery admin token create ci --role publisher --expires 12h
    """
    until = f"until {when(made.expires_at)}" if made.expires_at else "until it is revoked"
    session.print(made.secret)
    session.say(f"This is the secret of {made.name}, {made.role}, valid {until}. It is shown this once.")
    session.say(f"Its bearer may {MEANINGS[made.role]}.")


listing(
    "admin token list",
    Tokens.list,
    "List tokens, without their secrets.",
    "name role state expires_at created_at:age created_by created_at revoked_at revoked_by",
    none="There is no token. Hint: fusery admin token create NAME --role reader",
    cells={"expires_at": lambda token: when(token.expires_at) if token.expires_at else "never"},
    revoked="--all",
)


prints("admin token revoke", Tokens.revoke, text="Revoke a token: no server accepts it any more.")(
    lambda session, token: session.print(f"The token {token.name} is revoked: no server takes it any more.")
)


class Login(Record):
    """The result of `fusery login`."""

    url: str = described("URL of the server")
    stored: bool = described("whether a token is stored")
    name: str | None = described("name of the token, under which the server logs your actions", default=None)
    role: Role | None = described("role of the token", default=None)
    expires_at: datetime | None = described("when the token expires", default=None)


@command("login", document=".trust:Login", remove=": Remove the stored token instead.")
def log_in(session: Session, url: str, *, remove: bool = False) -> None:
    """Store the token for a server's registry.

    Type the token at the prompt, or pass it on standard input; the server verifies it. The system's keyring stores it
    (extra keyring), or a file that only you can read. FUSERY_TOKEN takes precedence.

    Example: fusery login https://fusery.example:8430
    """
    from fusery.registry import Registry
    from fusery.registry.remote.address import ServerAddress, forget_token, store_token

    server = ServerAddress.parse(url).url
    if remove:
        done = "Removed the token" if forget_token(server) else "Token not found"
        left = Login(url=server, stored=False)
        session.emit(left, names=[server], human=lambda: session.print(f"{done} for {server}."))
        return
    if sys.stdin.isatty():
        token = str(click.prompt("Token", hide_input=True, err=True)).strip()
    else:
        token = sys.stdin.readline(8_192).strip()
    with Registry.open(server, token=token) as registry:
        own = registry.tokens.own()
    place = store_token(server, token)

    def human() -> None:
        until = f", valid until {when(own.expires_at)}" if own.expires_at else ""
        session.print(f"Logged in to {server} as {own.name}, {own.role}{until}.")
        session.say(f"The token is in {place}.")
        session.say(f"Next: fusery --registry {server} list")

    login = Login(url=server, stored=True, name=own.name, role=own.role, expires_at=own.expires_at)
    session.emit(login, names=[server], human=human)


@prints("admin webhook add", Webhooks.add, actions="--on ACTION", tasks="--task TASK")
def add_webhook(session: Session, added: AddedWebhook) -> None:
    """Add a webhook: send events to a URL from now on.

    The command prints the key that verifies the events. `fusery server` delivers the events; without a server, run
    `fusery admin webhook deliver`.

    Example: fusery admin webhook add https://hooks.example/x --on alias.moved
    """
    session.print(f"{added.name} gets {_wanted(added)}.")
    if added.key is None:
        session.say(
            "Its key is made of a secret that is not known here. Where it is delivered from, "
            f"this prints it: fusery admin webhook key {added.name}"
        )
        return
    session.print(f"Its receiver verifies them with this key: {added.key}")
    session.say(f"fusery admin webhook key {added.name} prints it again.")


def _wanted(hook: Webhook) -> str:
    tasks = f" of {', '.join(hook.tasks)}" if hook.tasks else ""
    return f"{', '.join(hook.actions)}{tasks}, at {hook.url}"


listing(
    "admin webhook list",
    Webhooks.list,
    "List webhooks, their last delivery and next attempt.",
    "name state waiting delivered_at:delivered error next_attempt actions tasks url created_at:age created_by",
    none="There is no webhook. Hint: fusery admin webhook add URL --on alias.moved",
)


def _retried(session: Session, hook: Webhook) -> None:
    error = f"; {hook.error}" if hook.error else ""
    session.print(f"{hook.name} is {hook.state}, {plural(hook.waiting, 'event')} waiting{error}.")


def _removed(session: Session, hook: Webhook) -> None:
    waited = f"; {plural(hook.waiting, 'event')} had not been delivered" if hook.waiting else ""
    session.print(f"{hook.name} gets nothing any more{waited}.")


prints("admin webhook remove", Webhooks.remove, text="Remove a webhook.")(_removed)
prints("admin webhook key", Webhooks.key, names="key", text="Print the key that verifies the events.")(
    lambda session, made: session.print(made.key)
)


@command("admin webhook deliver", Webhooks.deliver)
def deliver(session: Session, name: str | None = None, *, follow: bool = False) -> int:
    """Deliver the waiting events of all webhooks, or of one.

    Events are delivered in order, and at least once. A failed delivery is retried after 1 s, then after twice as long
    each time, up to an hour. Exit code 1: a delivery failed.
    """
    if follow:
        if name is not None or session.json:
            raise click.UsageError("--follow is for all webhooks, and without --json.")
        try:
            session.registry.webhooks.run(stop=Event(), reporter=session.reporter())
        except KeyboardInterrupt:
            session.say("Stopped.")
        return 0
    tried = session.registry.webhooks.deliver(name, reporter=session.reporter())

    def human() -> None:
        for row in tried:
            again = f"; next attempt {when(row.next_attempt)}" if row.next_attempt else ""
            error = f"; {row.error}{'; disabled' if row.disabled else again}" if row.error else ""
            session.print(f"{row.name}: {plural(len(row.delivered), 'event')} delivered{error}")
        if not tried:
            session.say("Nothing is due.")

    session.emit(tried, names=[row.name for row in tried if row.delivered], human=human)
    return 1 if any(row.error for row in tried) else 0


prints("admin webhook retry", Webhooks.retry, text="Retry a webhook's event now, even if disabled.")(_retried)
prints("admin webhook skip", Webhooks.skip, names="seq", text="Skip the first waiting event of a webhook.")(
    lambda session, event: session.print(
        f"{event.name} does not get entry {event.seq}, {event.action} {event.subject}."
    )
)
