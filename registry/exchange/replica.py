"""The local replica of a server's registry, in which commands compute.

It has the server's registry id.  After each command, new records are sent to the server, so that the replica
can be removed at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from fusery.storage.errors import FuseryError
from fusery.storage.locate import open_store
from fusery.storage.progress import Reporter

from .. import tables
from ..errors import ServerRefusedError, ServerUnavailableError
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
    workspace: Workspace,
    server: Server,
    registry: str,
    wanted: Sequence[Resolved],
    *,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
    send: bool = True,
) -> Iterator[None]:
    """Pull records from a server, run the block, and push the new records at the end.

    Also push records that an interrupted run left.

    Args:
        workspace: the registry on this machine that holds what was fetched.
        server: where the registry is.
        registry: its id.
        wanted: what to fetch.
        say: hears what the server did not record.
        progress: hears the bytes done and the total.
        send: what is recorded within the block is sent.
    """
    place, reporter = place_of(server), Reporter(progress=progress)
    _require_same(workspace, server, registry)
    for each in wanted:
        pull_from_server(workspace, each.name, place, own=True, reporter=reporter)
        if each.kind == "adapter" and not each.yanked:
            lift(workspace, [each.name])
    _send_made(workspace, server, reporter, say)
    yield
    if send:
        _send_made(workspace, server, reporter, say)
    else:
        _note_sent(workspace, _newest(workspace))


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


def _send_made(workspace: Workspace, server: Server, reporter: Reporter, say: Callable[[str], None]) -> None:
    """Send what the log tells of since the entry up to which all was sent.

    What the server refuses is not sent again.  Who may only read computes all the same, and is told that the server did
    not record it.

    Raises:
        FuseryError: the server refused a base model or an adapter, or did not answer.
    """
    place, event, newest = place_of(server), tables.Event, _newest(workspace)
    subjects, bundles = dict[str, str](), list[SentBundle]()
    with workspace.database.read() as session:
        query = select(event).where(event.seq > _sent_up_to(workspace), event.seq <= newest)
        for row in session.scalars(query.order_by(event.seq)):
            if bundle := written_bundle(session, row):
                bundles.append(bundle)
            elif row.subject_kind in _MADE and not row.action.endswith(_KNOWN_THERE):
                subjects[row.subject] = row.subject_kind
    refused: FuseryError | None = None
    for subject, kind in subjects.items():
        try:
            push_to_server(workspace, subject, place, reporter=reporter)
        except ServerUnavailableError:
            raise
        except FuseryError as error:
            refused = refused or (error if kind in ("adapter", "base") else None)
            say(f"not recorded at {server.url}: {error.message}")
    for bundle in bundles:
        try:
            server.ask("bundles/record", {"bundle": bundle}, bool, writes=True)
        except ServerUnavailableError:
            raise
        except FuseryError as error:
            say(f"not recorded at {server.url}: {error.message}")
    _note_sent(workspace, newest)
    if refused is not None:
        raise refused


def _newest(workspace: Workspace) -> int:
    with workspace.database.read() as session:
        return session.scalar(select(func.max(tables.Event.seq))) or 0


def _sent_up_to(workspace: Workspace) -> int:
    noted = workspace.settings.home / _SENT
    return int(noted.read_text()) if noted.exists() else 0


def _note_sent(workspace: Workspace, seq: int) -> None:
    if seq > _sent_up_to(workspace):
        noted = workspace.settings.home / _SENT
        part = noted.with_name(f".{_SENT}.{os.getpid()}")
        part.write_text(str(seq))
        part.replace(noted)
