"""`fusery init`, `doctor`, `db` and `completion`: the registry itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import click

from fusery.registry.parsing import plural
from fusery.registry.record import Record, described

from .groups import Group
from .session import Session, command


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialised(Record):
    """The result of `fusery init`."""

    home: str = described("folder of the registry, or URL of its server")
    store: str = described("URL of its store, without secrets")
    created: bool = described("whether it is new")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaCheck(Record):
    """The result of `fusery db check`."""

    differences: tuple[str, ...] = described("differences from the schema of this version, a sentence each")
    KEYS: ClassVar[tuple[str, ...]] = ("ok", "differences")

    @property
    def ok(self) -> bool:
        """Whether there are no differences."""
        return not self.differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Record):
    """The completion script of a shell."""

    shell: str = described("shell: `bash`, `zsh` or `fish`")
    script: str = described("completion script")


@command("init")
def init_command(session: Session) -> None:
    """Make a registry: home folder, database and store.

    A second time it changes nothing.
    """
    made = session.registry.init()
    place, store = session.registry.place
    done = Initialised(home=place, store=store, created=made)

    def human() -> None:
        if session.registry.server is not None:
            session.print(f"There is a registry at {place}")
        else:
            session.print(f"{'Made a registry' if made else 'There is a registry'} in {place}")
        session.say("Next: fusery base add SOURCE")

    session.emit(done, names=[place], human=human)


@command("doctor")
def doctor_command(session: Session) -> int:
    """Show every setting, where it is from, and check each part.

    Exit code 1 when a part has a problem.
    """
    from fusery.registry.audit.doctor import Health

    health = Health(tuple(session.registry.upkeep.doctor(reporter=session.reporter())))

    def human() -> None:
        for check in health.checks:
            session.print(f"{check.status:<8} {check.name:<22} {check.detail}")
            if check.hint:
                session.hint(check.hint, f"{'':<32}")

    failed = [check.name for check in health.checks if check.status == "problem"]
    session.emit(health, names=failed, human=human)
    return 0 if health.ok else 1


@click.group("db", cls=Group)
def db_command() -> None:
    """Upgrade and check the database's schema."""


@command("upgrade")
def upgrade(session: Session) -> None:
    """Bring the database's schema to the version needed here."""
    done = session.registry.upkeep.upgrade()

    def human() -> None:
        already = done.before == done.after
        session.print(
            f"Already at {done.after}"
            if already
            else f"Upgraded from {done.before or 'empty'} to {done.after}"
        )
        if done.before is None:
            session.say("Next: fusery init, which makes the store that belongs to it")

    session.emit(done, names=[str(done.after)], human=human)


@command("current")
def current(session: Session) -> None:
    """Show the schema's version, and the one that is needed."""
    state = session.registry.upkeep.schema()
    session.emit(
        state,
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
    found = SchemaCheck(differences=tuple(session.registry.upkeep.schema_differences()))

    def human() -> None:
        for difference in found.differences:
            session.print(difference)
        session.print(
            "The schema is as it should be."
            if found.ok
            else f"{plural(len(found.differences), 'difference')}."
        )

    session.emit(found, names=found.differences, human=human)
    return 0 if found.ok else 1


for _command in (upgrade, current, check):
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
        session.emit(Completion(shell=shell, script=script), names=(), human=lambda: None)
    else:
        click.echo(script)
