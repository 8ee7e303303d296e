"""What was fetched of a server's registry: a registry on this machine with the same id, which commands compute in.

It holds nothing that the server does not have, so that it may be removed at any time.
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
from ..releases.yanks import lift
from .over_http import ServerPlace, pull_from_server, push_to_server

if TYPE_CHECKING:
    from ..records.resolved import Resolved
    from ..remote.server import Server
    from ..workspace import Workspace

_SENT = "sent"
"""The file with the number of the log's entry up to which everything was sent."""

_MADE = frozenset({"adapter", "base", "calibration", "fused"})
"""Kinds of things that packages carry, with all that is recorded of them."""


@contextmanager
def fetched(
    workspace: Workspace, server: Server, registry: str, wanted: Sequence[Resolved], reporter: Reporter
) -> Iterator[None]:
    """Fetch things from a server, and send what is recorded within the block to it at the end.

    What an earlier run recorded and did not come to send is sent, too.

    Args:
        workspace: the registry on this machine that holds what was fetched.
        server: where the registry is.
        registry: its id.
        wanted: what to fetch.
        reporter: hears what is going on, and the bytes done and the total.
    """
    place = ServerPlace(server.url, token=server.token)
    _require_same(workspace, server, registry)
    for each in wanted:
        pull_from_server(workspace, each.name, place, reporter=reporter)
        if each.kind == "adapter" and not each.yanked:
            lift(workspace, [each.name])
    _send_made(workspace, place, reporter)
    yield
    _send_made(workspace, place, reporter)


def _require_same(workspace: Workspace, server: Server, registry: str) -> None:
    """Give what is fetched of a registry that registry's id; refuse what was fetched of another one at that address."""
    if workspace.is_unmade:
        store = open_store(workspace.settings.store)
        if store.identify() is None:
            store.initialise(registry)
        workspace.ensure()
    if workspace.identity != registry:
        raise ServerRefusedError(
            f"another registry is at {server.url} now than the one that was fetched from before",
            hint=f"remove {workspace.settings.home}, and run the command again",
        )


def _send_made(workspace: Workspace, place: ServerPlace, reporter: Reporter) -> None:
    """Send what the log tells of since the entry up to which all was sent."""
    noted = workspace.settings.home / _SENT
    before = int(noted.read_text()) if noted.exists() else 0
    event, newest = tables.Event, before
    subjects: dict[str, None] = {}
    with workspace.database.read() as session:
        query = select(event.seq, event.action, event.subject_kind, event.subject).where(event.seq > before)
        for seq, action, kind, subject in session.execute(query.order_by(event.seq)):
            newest = seq
            if kind in _MADE and not action.endswith((".received", ".recognised", ".unyanked")):
                subjects[subject] = None
    for subject in subjects:
        push_to_server(workspace, subject, place, reporter=reporter)
    if newest > before:
        part = noted.with_name(f".{_SENT}.{os.getpid()}")
        part.write_text(str(newest))
        part.replace(noted)
