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
from ..records.sent_bundles import SentBundle, written_bundle
from ..releases.yanks import lift
from .over_http import ServerPlace, pull_from_server, push_to_server

if TYPE_CHECKING:
    from ..records.resolved import Resolved
    from ..remote.server import Server
    from ..workspace import Workspace

_SENT = "sent"
"""The file with the number of the log's entry up to which everything was sent."""

_KNOWN_THERE = (".received", ".recognised", ".unyanked")
"""How actions end of what came from the server."""

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
    """Return where a server is, as pushes and pulls take it."""
    return ServerPlace(server.url, insecure=not server.address.secure, token=server.token)


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


def _send_made(workspace: Workspace, server: Server, place: ServerPlace, reporter: Reporter) -> None:
    """Send what the log tells of since the entry up to which all was sent."""
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
