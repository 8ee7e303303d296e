"""`fusery webhook`: entries of the log, sent to other programs as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fusery.registry.parsing import plural

from .columns import record_facts, record_table
from .groups import Group
from .session import Session, command
from .text import when

if TYPE_CHECKING:
    from fusery.registry.records.webhook import Webhook, WebhookDeliveries

_NAME = click.argument("name", metavar="NAME")


@click.group("webhook", cls=Group)
def webhook_command() -> None:
    """Send entries of the log to other programs, as they come."""


@command("add")
@click.argument("url", metavar="URL")
@click.option(
    "--on",
    "actions",
    multiple=True,
    required=True,
    metavar="ACTION",
    help="Which events: alias.moved, 'alias.*'; may be given again.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Only about this task: course_rec, 'course_*'; may be given again.",
)
@click.option("--name", metavar="NAME", help="What it is called here; default: the URL's host.")
@click.option(
    "--allow-private", is_flag=True, help="It may be in a private network, if whoever delivers may go there."
)
def add_command(
    session: Session,
    url: str,
    actions: tuple[str, ...],
    tasks: tuple[str, ...],
    name: str | None,
    allow_private: bool,
) -> None:
    """Have events sent to a URL from now on.

    The key by which the receiver knows them is printed; fusery webhook key prints it again.  Something has to deliver: fusery webhook
    deliver, now and then or with --follow.
    """
    added = session.registry.webhooks.add(url, actions, tasks=tasks, name=name, allow_private=allow_private)

    def human() -> None:
        session.print(f"{added.name} gets {_wanted(added)}.")
        if added.key is None:
            session.say(
                "Its key is made of a secret that is not known here. Where it is delivered from, "
                f"this prints it: fusery webhook key {added.name}"
            )
            return
        session.print(f"Its receiver verifies them with this key: {added.key}")
        session.say(f"fusery webhook key {added.name} prints it again.")

    session.emit(added, names=[added.name], human=human)


def _wanted(hook: Webhook) -> str:
    tasks = f" of {', '.join(hook.tasks)}" if hook.tasks else ""
    return f"{', '.join(hook.actions)}{tasks}, at {hook.url}"


@command("list", table=True)
def list_command(session: Session) -> None:
    """List the webhooks, and how far each has come."""
    hooks = session.registry.webhooks.list()

    def human() -> None:
        from fusery.registry.records.webhook import Webhook

        columns = "name state waiting actions tasks url error created_at:age created_by"
        session.print_table(record_table(Webhook, hooks, columns))
        if not hooks:
            session.say("There is no webhook. Hint: fusery webhook add URL --on alias.moved")

    session.emit(hooks, names=[hook.name for hook in hooks], human=human)


def _print_hook(session: Session, hook: Webhook) -> None:
    from fusery.registry.records.webhook import Webhook

    layout = "name, actions, state, position, waiting, delivered_at, failing attempts, error, next_attempt, disabled_at"
    session.facts(record_facts(Webhook, layout, hook, actions=_wanted(hook)))


@command("show")
@_NAME
def show_command(session: Session, name: str) -> None:
    """Show how far a webhook has come, what waits, and what went wrong."""
    hook = session.registry.webhooks.show(name)
    session.emit(hook, names=[hook.name], human=lambda: _print_hook(session, hook))


@command("remove")
@_NAME
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def remove_command(session: Session, name: str, reason: str) -> None:
    """Send nothing to a webhook any more."""
    removed = session.registry.webhooks.remove(name, reason=reason)
    waited = f"; {plural(removed.waiting, 'event')} had not been delivered" if removed.waiting else ""
    session.emit(
        removed,
        names=[removed.name],
        human=lambda: session.print(f"{removed.name} gets nothing any more{waited}."),
    )


@command("key")
@_NAME
def key_command(session: Session, name: str) -> None:
    """Print the key that a webhook's receiver verifies events with."""
    found = session.registry.webhooks.key(name)
    session.emit(found, names=[found.key], human=lambda: session.print(found.key))


@command("deliver")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C, and deliver events as they come.")
def deliver_command(session: Session, name: str | None, follow: bool) -> int:
    """Deliver what is due, to all webhooks or one.

    Each event is delivered at least once, and in order.  What is not taken is tried again later, after one second and then
    after twice as long each time, up to an hour; the exit code is 1 then.
    """
    if follow:
        if name is not None or session.json:
            raise click.UsageError("--follow is for all webhooks, and without --json.")
        return _follow(session)
    tried = session.registry.webhooks.deliver(name, reporter=session.reporter())

    def human() -> None:
        for each in tried:
            session.print(_told(each))
        if not tried:
            session.say("Nothing is due.")

    session.emit(tried, names=[each.name for each in tried if each.delivered], human=human)
    return 1 if any(each.error for each in tried) else 0


def _follow(session: Session) -> int:
    import threading

    stop = threading.Event()
    try:
        session.registry.webhooks.run(stop=stop, reporter=session.reporter())
    except KeyboardInterrupt:
        session.say("Stopped.")
    return 0


def _told(each: WebhookDeliveries) -> str:
    taken = f"{each.name}: {plural(len(each.delivered), 'event')} delivered"
    if not each.error:
        return taken
    again = f"; next attempt {when(each.next_attempt)}" if each.next_attempt else ""
    return f"{taken}; {each.error}{'; disabled' if each.disabled else again}"


@command("retry")
@_NAME
def retry_command(session: Session, name: str) -> None:
    """Try now what a webhook waits for, also one that is disabled."""
    hook = session.registry.webhooks.retry(name, reporter=session.reporter())
    session.emit(hook, names=[hook.name], human=lambda: _print_hook(session, hook))


@command("skip")
@_NAME
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the log.")
def skip_command(session: Session, name: str, reason: str) -> None:
    """Pass over the first event that a webhook waits for."""
    skipped = session.registry.webhooks.skip(name, reason=reason)
    said = f"{skipped.name} does not get entry {skipped.seq}, {skipped.action} {skipped.subject}."
    session.emit(skipped, names=[str(skipped.seq)], human=lambda: session.print(said))


for _command in (
    add_command,
    list_command,
    show_command,
    remove_command,
    key_command,
    deliver_command,
    retry_command,
    skip_command,
):
    webhook_command.add_command(_command)
