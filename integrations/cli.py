"""`fusery deploy sync`: load and unload adapters in live servers and folders."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from fusery.cli.command import command
from fusery.cli.session import Session
from fusery.cli.text import cell

if TYPE_CHECKING:
    from .sync.plan import Synced, SyncStep

_DONE = {"load": "loaded", "replace": "replaced", "unload": "unloaded", "record": "recorded", "end": "gone"}
_DONE |= {"keep": "there", "leave": "left alone", "blocked": "in the way", "withheld": "withheld"}
_WOULD = _DONE | {
    "load": "to load",
    "replace": "to replace",
    "unload": "to unload",
    "record": "not on record",
}
_BRINGS = ("load", "replace")
_GOES = ("unload", "end")


@command(
    "deploy sync",
    rare="seen_as base_name place",
    document="fusery.integrations.sync.plan:Synced",
    references="[REF]...",
    to="PLACE...: vllm=URL, sglang=URL, fusery=URL, FOLDER or s3://BUCKET/FOLDER.",
    where="EXPR: Also load adapters that match, as in list --where.",
    task="TASK: Load all adapters of this task, filtered by --where.",
    nothing="--none: Unload all adapters that were synced.",
    dry_run=": Only show what would change.",
    check=": Only show differences; exit with 1 if there are any.",
    watch=("SECONDS: Sync again after this time, until Ctrl-C.", click.FloatRange(0.1, 86_400)),
    folder="FOLDER: Folder for the server's adapter files; default: synced/ in the registry's folder.",
    seen_as="PATH: Path of --folder on the server, if it differs.",
    base_name="NAME: Name of the base model on the server, if it differs.",
    place="NAME: Name of the place in deployments; default: PLACE, with this machine's name if it is local.",
    insecure="--insecure-http: Allow sending the server's key without TLS.",
)
def sync(
    session: Session,
    references: tuple[str, ...] = (),
    *,
    to: tuple[str, ...],
    dry_run: bool = False,
    check: bool = False,
    watch: float | None = None,
    **options: Any,
) -> int:
    """Load and unload adapters in a live server or a folder.

    Sync loads the missing adapters. It unloads adapters that an earlier sync loaded and that are yanked or no longer
    chosen, and touches nothing else. The server's key comes from FUSERY_SYNC_KEY, or from the file in
    FUSERY_SYNC_KEY_FILE.

    Examples:
      fusery deploy sync course_rec#prod --to vllm=http://127.0.0.1:8000
      fusery deploy sync --where "alias = 'prod'" --to /srv/loras --watch 10
    """
    from .sync import sync as live
    from .sync.plan import SyncRequest

    if (dry_run + check + (watch is not None)) > 1:
        raise click.UsageError("--dry-run, --check and --watch exclude each other.")
    if len(to) > 1:
        raise click.UsageError("One place at a time.\nHint: fusery deploy sync ... --to PLACE for each")
    request = SyncRequest(to[0], references, **options)
    if watch is not None:

        def on_sync(synced: Synced) -> None:
            if session.json:
                session.document(synced, indent=None)
            else:
                session.print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}")
                _print(session, synced, list(synced.steps), looks=False)

        ended, reporter = Event(), session.reporter()
        with suppress(KeyboardInterrupt):
            live.watch(
                session.registry, request, every=watch, on_sync=on_sync, ended=ended, reporter=reporter
            )
        return 0
    synced = live.sync(session.registry, request, dry_run=dry_run or check, reporter=session.reporter())
    shown = [step for step in synced.steps if step.is_drift or not check]
    loaded = (step for step in shown if check or step.act == "keep" or step.act in _BRINGS and step.done)
    session.emit(
        synced,
        names=[step.adapter for step in loaded],
        human=lambda: _print(session, synced, shown, looks=dry_run or check),
    )
    return int(synced.drift) if check else int(not (dry_run or synced.ok))


def _print(session: Session, report: Synced, shown: list[SyncStep], *, looks: bool) -> None:
    session.print(cell(report.place))
    width = max((len(step.adapter) for step in shown), default=0)
    for step in shown:
        undone = step.act in _BRINGS + _GOES and not step.done and not looks
        word = f"not {_DONE[step.act]}" if undone else (_WOULD if looks else _DONE)[step.act]
        # A first load, and an unload of what is no longer selected, need no reason.
        reason = step.reason if not step.done or step.references or step.act in _BRINGS else None
        text = cell(reason or " ".join(step.references))
        session.print(f"  {word:<13}  {cell(step.adapter):<{width}}  {text}".rstrip())
    if not shown:
        session.print("  in sync" if report.steps else "  no adapters are wanted or loaded")
