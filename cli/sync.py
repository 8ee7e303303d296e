"""`fusery sync`: servers and folders brought to the adapters that they should have."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import LocalPath, Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.sync.outcome import Synced, SyncStep
    from fusery.registry.sync.sync import SyncRequest

_DONE = {
    "load": "loaded",
    "replace": "replaced",
    "unload": "unloaded",
    "record": "recorded",
    "end": "gone",
    "keep": "there",
    "leave": "left alone",
    "blocked": "in the way",
    "withheld": "withheld",
}
_BRINGS = ("load", "replace")
_GOES = ("unload", "end")
_WOULD = {
    **_DONE,
    "load": "to load",
    "replace": "to replace",
    "unload": "to unload",
    "record": "not on record",
}


@command("sync")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option(
    "--to",
    required=True,
    multiple=True,
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
    type=LocalPath(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where a server finds the files of its adapters; default: one in the home of the registry.",
)
@click.option("--seen-as", metavar="PATH", help="What the server calls that folder, if it sees it elsewhere.")
@click.option(
    "--base-name", metavar="NAME", help="What the base is called there, if not as it is called here."
)
@click.option(
    "--place",
    metavar="NAME",
    help="What the record calls it; default: PLACE, and this machine's name where it is on it.",
)
@click.option("--insecure-http", is_flag=True, help="Let the server's key go over a network as it is.")
def sync_command(
    session: Session,
    references: tuple[str, ...],
    to: tuple[str, ...],
    where: str | None,
    task: str | None,
    nothing: bool,
    dry_run: bool,
    check: bool,
    watch: float | None,
    folder: Path | None,
    seen_as: str | None,
    base_name: str | None,
    place: str | None,
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
    if len(to) > 1:
        raise click.UsageError("One place at a time.\nHint: fusery sync ... --to PLACE for each of them")
    destination = DestinationOptions(to[0], folder, seen_as, base_name, insecure_http, place)
    request = SyncRequest(destination, references, where, task, nothing)
    if watch is not None:
        return _watched(session, request, watch)
    found = session.registry.deployments.sync(request, dry_run=dry_run or check, reporter=session.reporter())
    shown = [step for step in found.steps if step.is_drift or not check]
    session.emit(
        found,
        names=[
            step.adapter for step in shown if check or step.act == "keep" or step.act in _BRINGS and step.done
        ],
        human=lambda: _print(session, found, shown, looks=dry_run or check),
    )
    if check:
        return 1 if found.drift else 0
    return 0 if dry_run or found.ok else 1


def _watched(session: Session, request: SyncRequest, every: float) -> int:
    import threading
    from contextlib import suppress

    def told(found: Synced) -> None:
        if session.json:
            session.document(found, indent=None)
        else:
            session.print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}")
            _print(session, found, list(found.steps), looks=False)

    with suppress(KeyboardInterrupt):
        session.registry.deployments.watch(
            request, every=every, told=told, ended=threading.Event(), reporter=session.reporter()
        )
    return 0


def _print(session: Session, found: Synced, shown: list[SyncStep], *, looks: bool) -> None:
    session.print(cell(found.place))
    width = max((len(step.adapter) for step in shown), default=0)
    for step in shown:
        session.print("  " + _line(step, width, looks=looks).rstrip())
    if not shown:
        session.print(
            "  all is as it should be" if found.steps else "  nothing is there, and nothing is wanted"
        )


def _line(step: SyncStep, width: int, *, looks: bool) -> str:
    undone = step.act in _BRINGS + _GOES and not step.done and not looks
    word = f"not {_DONE[step.act]}" if undone else (_WOULD if looks else _DONE)[step.act]
    # Of what comes for the first time, and of what went because nobody wants it any more, there is nothing to say.
    said = step.reason if not step.done or step.references or step.act in _BRINGS else None
    return f"{word:<13}  {cell(step.adapter):<{width}}  {cell(said or ' '.join(step.references))}"
