"""`fusery push` and `pull`: from one registry to another, only what is missing there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .session import Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.exchange import Exchanged


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which registry is meant and what goes along."""
    options = [
        click.option(
            "--database",
            metavar="URL",
            envvar="FUSERY_OTHER_DATABASE_URL",
            help="The other registry's database; with --store, instead of a home folder.",
        ),
        click.option(
            "--store", metavar="URL", envvar="FUSERY_OTHER_STORE_URL", help="The other registry's store."
        ),
        click.option("--insecure-http", is_flag=True, help="Let the token go over the network as it is."),
        click.option("--fused", is_flag=True, help="Also what was fused from the adapters."),
        click.option("--dry-run", is_flag=True, help="Only show what would be copied; nothing is written."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@command("push", table=True)
@click.argument("reference", metavar="REF")
@click.option(
    "--to", "home", type=click.Path(), metavar="HOME|URL", help="The other registry's home, or its server."
)
@_options
def push_command(session: Session, reference: str, **options: Any) -> None:
    """Copy an adapter to another registry.

    Its base, data and parents go along, as far as they are missing there.  REF may also be a task, for all of its
    versions, a base model, or a fused artifact.  Digests, names, versions and lineage stay what they are; the log there
    says where each thing came from.  Options for the other store's file system are taken from
    FUSERY_OTHER_STORE_OPTIONS, as JSON.

    URL is that of a `fusery server`, such as https://models.example.org: then FUSERY_TOKEN, or the file that
    FUSERY_TOKEN_FILE names, has the token, and FUSERY_CA_FILE certificates to trust instead of the system's.
    """
    _run(session, session.registry.exchange.push, reference, "pushing", options)


@command("pull", table=True)
@click.argument("reference", metavar="REF")
@click.option(
    "--from", "home", type=click.Path(), metavar="HOME|URL", help="The other registry's home, or its server."
)
@_options
def pull_command(session: Session, reference: str, **options: Any) -> None:
    """Copy an adapter from another registry.

    Its base, data and parents come along, as far as they are missing here.  REF is what it is called there; see `fusery
    push`.
    """
    _run(session, session.registry.exchange.pull, reference, "pulling", options)


def _run(
    session: Session,
    move: Callable[..., Exchanged],
    reference: str,
    label: str,
    options: dict[str, Any],
) -> None:
    import os

    # A home that is given counts alone; what the environment says is for when none is.
    home = options.pop("home")
    if home is not None:
        source = click.get_current_context().get_parameter_source
        for name in ("database", "store"):
            if source(name) == click.core.ParameterSource.ENVIRONMENT:
                options[name] = None
    else:
        options["store_options"] = os.environ.get("FUSERY_OTHER_STORE_OPTIONS")
    with session.progress(label) as progress:
        done = move(reference, home, **options, reporter=session.reporter(progress))
    session.emit(done, names=[item.there for item in done.moved], human=lambda: _print(session, done))


def _print(session: Session, done: Exchanged) -> None:
    table = session.table("name", "kind", "state", "bytes", "digest", right=("bytes",), free=("state",))
    states: Mapping[str, str] = (
        {"copied": "would be copied", "completed": "would be completed"} if done.dry_run else {}
    )
    for item in done.items_:
        name = item.there if item.there == item.name else f"{item.name} (there: {item.there})"
        state = states.get(item.state, item.state)
        reason = f": {item.reason}" if item.reason else ""
        table.add_row(cell(name), item.kind, cell(state + reason), size(item.bytes), item.digest[:12])
    session.print_table(table)
    for item in done.items_:
        for each in item.withdrawals:
            session.note(f"{item.there}: {each.told}")
    place = cell(done.to.place)
    if not done.copied:
        session.print(f"Nothing to copy: {place} has it all.")
    elif done.dry_run:
        session.print(f"Would copy {plural(done.copied, 'record')} to {place}, {size(done.bytes)}.")
    else:
        session.print(f"Copied {plural(done.copied, 'record')} to {place}, {size(done.bytes)}.")
