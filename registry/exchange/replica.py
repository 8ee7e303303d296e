"""The local replica of a server's registry, in which commands compute.

It has the server's registry id.  After each command, new records are sent to the server, so that the replica
can be removed at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.locate import open_store
from fusery.storage.progress import Reporter

from .. import tables
from ..errors import ServerRefusedError
from ..records.sent_bundles import SentBundle, written_bundle
from ..releases.yanks import lift
from .over_http import ServerPlace, pull_from_server, push_to_server

if TYPE_CHECKING:
    from ..records.resolved import Resolved
    from ..remote.server import Server
    from ..workspace import Workspace

_SENT = "sent"
"""The file with the number of the last log entry that was sent."""

_KNOWN_THERE = (".received", ".recognised", ".unyanked")
"""Suffixes of actions for records that came from the server."""

_MADE = frozenset({"adapter", "base", "calibration", "fused"})
"""Kinds of records that packages contain."""


@contextmanager
def fetched(
    workspace: Workspace, server: Server, registry: str, wanted: Sequence[Resolved], reporter: Reporter
) -> Iterator[None]:
    """Pull records from a server, run the block, and push the new records at the end.

    Also push records that an interrupted run left.

    Args:
        workspace: the local replica.
        server: the server.
        registry: the id of its registry.
        wanted: the adapters, base models and fused models to pull.
        reporter: receives messages, and the bytes done and the total.
    """
    place = place_of(server)
    _require_same(workspace, server, registry)
    for each in wanted:
        pull_from_server(workspace, each.name, place, reporter=reporter)
        if each.kind == "adapter" and not each.yanked:
            lift(workspace, [each.name])
    _send_made(workspace, server, place, reporter)
    yield
    _send_made(workspace, server, place, reporter)


def place_of(server: Server) -> ServerPlace:
    """Return a server as the destination or source of a push or pull."""
    return ServerPlace(server.url, insecure=not server.address.secure, token=server.token)


def _require_same(workspace: Workspace, server: Server, registry: str) -> None:
    """Give a new replica the registry's id; refuse the replica of another registry."""
    if workspace.is_unmade:
        store = open_store(workspace.settings.store)
        if store.identify() is None:
            store.initialise(registry)
        workspace.ensure()
    if workspace.identity != registry:
        raise ServerRefusedError(
            f"{server.url} now has another registry than the local replica in {workspace.settings.home}",
            hint=f"remove {workspace.settings.home}, and run the command again",
        )


def _send_made(workspace: Workspace, server: Server, place: ServerPlace, reporter: Reporter) -> None:
    """Send the records of log entries after the last one that was sent."""
    noted = workspace.settings.home / _SENT
    before = int(noted.read_text()) if noted.exists() else 0
    event, newest = tables.Event, before
    subjects: dict[str, None] = {}
    bundles: list[SentBundle] = []
    with workspace.database.read() as session:
        for row in session.scalars(select(event).where(event.seq > before).order_by(event.seq)):
            newest = row.seq
            if bundle := written_bundle(session, row):
                bundles.append(bundle)
            elif row.subject_kind in _MADE and not row.action.endswith(_KNOWN_THERE):
                subjects[row.subject] = None
    for subject in subjects:
        push_to_server(workspace, subject, place, reporter=reporter)
    for bundle in bundles:
        server.ask("bundles/record", {"bundle": bundle}, bool, writes=True)
    if newest > before:
        part = noted.with_name(f".{_SENT}.{os.getpid()}")
        part.write_text(str(newest))
        part.replace(noted)
