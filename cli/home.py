"""`fusery init`, `doctor`, `db` and `completion`: the registry itself."""

from __future__ import annotations

from typing import Literal

import click

from fusery.registry.parsing import plural

from .groups import Group
from .session import Session, command

_ROLES: tuple[Literal["reader", "publisher", "admin"], ...] = ("reader", "publisher", "admin")


@command("init")
def init_command(session: Session) -> None:
    """Make a registry: home folder, database and store.

    A second time it changes nothing.
    """
    from fusery.storage.locate import display_url

    made = session.registry.init()
    settings = session.registry.workspace.settings
    document = {"home": str(settings.home), "store": display_url(settings.store), "created": made}

    def human() -> None:
        session.print(f"{'Made a registry' if made else 'There is a registry'} in {settings.home}")
        session.say("Next: fusery base add SOURCE")

    session.emit(document, names=[str(settings.home)], human=human)


@command("doctor")
def doctor_command(session: Session) -> int:
    """Show every setting, where it is from, and check each part.

    Exit code 1 when a part has a problem.
    """
    checks = session.registry.upkeep.doctor()
    failed = any(check.status == "problem" for check in checks)
    document = {"ok": not failed, "checks": [check.to_dict() for check in checks]}

    def human() -> None:
        for check in checks:
            session.print(f"{check.status:<8} {check.name:<22} {check.detail}")
            if check.hint:
                session.hint(check.hint, f"{'':<32}")

    session.emit(document, names=[check.name for check in checks if check.status == "problem"], human=human)
    return 1 if failed else 0


@click.group("db", cls=Group)
def db_command() -> None:
    """Upgrade and check the database's schema; print grants."""


@command("upgrade")
def upgrade(session: Session) -> None:
    """Bring the database's schema to the version needed here."""
    from fusery.registry.audit.upgrade import upgrade as bring_up

    done = bring_up(session.registry.workspace)

    def human() -> None:
        already = done.before == done.after
        session.print(
            f"Already at {done.after}"
            if already
            else f"Upgraded from {done.before or 'empty'} to {done.after}"
        )
        for name in done.mended:
            session.print(f"Made anew: {name}, which guards the database")
        if done.before is None:
            session.say("Next: fusery init, which makes the store that belongs to it")

    session.emit(done.to_dict(), names=[str(done.after)], human=human)


@command("current")
def current(session: Session) -> None:
    """Show the schema's version, and the one that is needed."""
    state = session.registry.upkeep.schema()
    document = {"current": state.current, "head": state.head, "status": state.status}
    session.emit(
        document,
        names=[str(state.current or "")],
        human=lambda: session.print(
            f"{state.current or 'empty'} (this program needs {state.head}: {state.status})"
        ),
    )


@command("check")
def check(session: Session) -> int:
    """Compare the database with the tables of this program.

    Exit code 1 when they differ.
    """
    differences = session.registry.upkeep.schema_differences()

    def human() -> None:
        for difference in differences:
            session.print(difference)
        session.print(
            "The schema is as it should be."
            if not differences
            else f"{plural(len(differences), 'difference')}."
        )

    session.emit({"ok": not differences, "differences": differences}, names=differences, human=human)
    return 1 if differences else 0


@command("grants")
@click.option("--role", type=click.Choice(_ROLES), help="Only this role.")
@click.option("--user", metavar="NAME", help="A login to make a member of the role.")
def grants(session: Session, role: str | None, user: str | None) -> None:
    """Print the SQL that gives roles their rights in PostgreSQL.

    The roles are a reader, a publisher and an admin.  Nothing is changed: give it to psql as the owner of the database,
    and again after `fusery db upgrade`.
    """
    chosen = next((known for known in _ROLES if known == role), None)
    script = session.registry.upkeep.grants(chosen, user=user)
    names = [chosen] if chosen else list(_ROLES)
    session.emit(
        {"roles": [f"fusery_{name}" for name in names], "user": user, "sql": script},
        names=[f"fusery_{name}" for name in names],
        human=lambda: click.echo(script, nl=False),
    )


for _command in (upgrade, current, check, grants):
    db_command.add_command(_command)


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(session: Session, shell: str) -> None:
    """Print the completion script for a shell.

    For bash: eval "$(fusery completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "fusery", "_FUSERY_COMPLETE").source()
    if session.json:
        session.emit({"shell": shell, "script": script}, names=(), human=lambda: None)
    else:
        click.echo(script)
