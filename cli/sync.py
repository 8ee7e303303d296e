"""`fusery sync`: servers and folders brought to the adapters that they should have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.sync.outcome import Synced, SyncStep
    from fusery.registry.sync.sync import SyncRequest

_DONE = {
    "load": "loaded",
    "replace": "replaced",
    "unload": "unloaded",
    "end": "gone",
    "keep": "there",
    "leave": "left alone",
    "blocked": "in the way",
    "withheld": "withheld",
}
_WOULD = {**_DONE, "load": "to load", "replace": "to replace", "unload": "to unload", "end": "gone already"}


@command("sync")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option(
    "--to",
    required=True,
    metavar="PLACE",
    help="vllm=URL, sglang=URL, fusery=URL, a folder, or one in a bucket: s3://BUCKET/FOLDER.",
)
@click.option("--where", metavar="EXPR", help="Also those that fit, as in list --where.")
@click.option("--task", metavar="T", help="Of these, only this task's; alone, all of it.")
@click.option("--none", "nothing", is_flag=True, help="Nothing is wanted: take away all that was brought.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--check", is_flag=True, help="Only say what is not as it should be, and exit with 1 if anything is."
)
@click.option(
    "--watch",
    type=click.FloatRange(0.1, 86_400),
    metavar="SECONDS",
    help="Go on, and look again every so many seconds; Ctrl-C ends it.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where a server finds the files of its adapters; default: one in the home of the registry.",
)
@click.option("--seen-as", metavar="PATH", help="What the server calls that folder, if it sees it elsewhere.")
@click.option(
    "--base-name", metavar="NAME", help="What the base is called there, if not as it is called here."
)
@click.option("--insecure-http", is_flag=True, help="Let the server's key go over a network as it is.")
def sync_command(
    session: Session,
    references: tuple[str, ...],
    to: str,
    where: str | None,
    task: str | None,
    nothing: bool,
    dry_run: bool,
    check: bool,
    watch: float | None,
    folder: Path | None,
    seen_as: str | None,
    base_name: str | None,
    insecure_http: bool,
) -> int:
    """Give a live server, or a folder, the adapters it should have.

    Loads what is wanted and not there, unloads what it has brought and is not wanted any more, and touches nothing else.  What
    is yanked goes.  Adapters are loaded under their full names, which never mean anything else; REF may be an alias, and is
    looked up each time.  What ran where from when until when is in fusery deploy list.

    The server's key, if it wants one, is FUSERY_SYNC_KEY, or in the file that FUSERY_SYNC_KEY_FILE names.
    """
    from fusery.registry.sync.destinations import DestinationOptions
    from fusery.registry.sync.sync import SyncRequest

    if (dry_run + check + (watch is not None)) > 1:
        raise click.UsageError("--dry-run, --check and --watch exclude each other.")
    destination = DestinationOptions(to, folder, seen_as, base_name, insecure_http)
    request = SyncRequest(destination, references, where, task, nothing)
    if watch is not None:
        return _watched(session, request, watch)
    looks = dry_run or check
    found = session.registry.deployments.sync(request, dry_run=looks, reporter=session.reporter())
    _emit(session, found, looks=looks)
    if check:
        return 1 if found.drift else 0
    return 0 if looks or found.ok else 1


def _watched(session: Session, request: SyncRequest, every: float) -> int:
    import threading
    from contextlib import suppress

    with suppress(KeyboardInterrupt):
        session.registry.deployments.watch(
            request,
            every=every,
            told=lambda found: _emit(session, found, looks=False),
            ended=threading.Event(),
            reporter=session.reporter(),
        )
    return 0


def _emit(session: Session, found: Synced, *, looks: bool) -> None:
    def human() -> None:
        session.print(cell(found.place))
        width = max((len(step.adapter) for step in found.steps), default=0)
        for step in found.steps:
            session.print("  " + _line(step, width, looks=looks).rstrip())
        if not found.steps:
            session.print("  nothing is there, and nothing is wanted")

    session.emit(
        found, names=[step.adapter for step in found.steps if step.act == "keep" or step.done], human=human
    )


def _line(step: SyncStep, width: int, *, looks: bool) -> str:
    undone = step.is_drift and not step.done and not looks
    word = (
        "not " + _DONE[step.act]
        if undone and step.act != "blocked"
        else (_WOULD if looks else _DONE)[step.act]
    )
    # Of what went because nobody wants it any more, there is nothing to say.
    said = step.reason if not step.done or step.references else None
    return f"{word:<12}  {cell(step.adapter):<{width}}  {cell(said or ' '.join(step.references))}"
