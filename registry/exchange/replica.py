"""What was fetched of a server's registry: a registry on this machine with the same id, which commands compute in.

It holds nothing that the server does not have, so that it may be removed at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.locate import open_store
from fusery.storage.manifest import file_entry
from fusery.storage.progress import Reporter, tally

from .. import tables
from ..errors import ServerRefusedError
from ..releases.yanks import lift
from .over_http import ServerPlace, in_parallel, pull_from_server, push_to_server
from .registry_server import RegistryServer
from .uploads import Arrived

if TYPE_CHECKING:
    from ..records.resolved import Resolved
    from ..remote.server import Server
    from ..workspace import Workspace

_MADE = frozenset({"adapter", "base", "calibration", "fused"})
"""Kinds of things that packages carry, with all that is recorded of them."""


@contextmanager
def fetched(
    workspace: Workspace, server: Server, wanted: Sequence[Resolved], reporter: Reporter
) -> Iterator[None]:
    """Fetch things from a server, and send what is recorded of them within the block to it at the end.

    Args:
        workspace: the registry on this machine that holds what was fetched.
        server: where the registry is.
        wanted: what to fetch.
        reporter: hears what is going on, and the bytes done and the total.
    """
    place = ServerPlace(server.url, token=server.token)
    for each in wanted:
        _require_same(workspace, server, each.registry)
        pull_from_server(workspace, each.name, place, reporter=reporter)
        if each.kind == "adapter" and not each.yanked:
            lift(workspace, [each.name])
    before = _newest(workspace)
    yield
    for subject in _made_since(workspace, before):
        push_to_server(workspace, subject, place, reporter=reporter)


def send_files(server: Server, files: Mapping[str, Path], reporter: Reporter) -> dict[str, str]:
    """Send files to a server as far as it does not have them, and return their digests by name.

    Args:
        server: where they go.
        files: by name.
        reporter: hears the bytes done and the total.

    Raises:
        ServerUnavailableError, ServerRefusedError: the server did not answer, or refused.
    """
    entries = {name: file_entry(name, path) for name, path in files.items()}
    paths = {entry.sha256: (entry, files[name]) for name, entry in entries.items()}
    place = ServerPlace(server.url, token=server.token)
    with place.asked() as calls:
        to = RegistryServer(calls)
        missing = [each for each in to.missing(list(paths)) if not each.complete]
        sizes = [paths[Digest(each.digest)][0].size - each.bytes for each in missing]
        progress = tally(reporter.progress, sum(sizes))

        def send(each: Arrived) -> None:
            entry, path = paths[Digest(each.digest)]
            to.upload(entry, path, each.bytes, progress)

        in_parallel(calls, send, missing)
    return {name: entry.sha256 for name, entry in entries.items()}


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


def _newest(workspace: Workspace) -> int:
    if workspace.is_unmade:
        return 0
    with workspace.database.read() as session:
        query = select(tables.Event.seq).order_by(tables.Event.seq.desc()).limit(1)
        return session.scalar(query) or 0


def _made_since(workspace: Workspace, seq: int) -> list[str]:
    """Return what the log tells of since an entry, each thing once."""
    event = tables.Event
    with workspace.database.read() as session:
        rows = session.execute(
            select(event.subject_kind, event.subject).where(event.seq > seq).order_by(event.seq)
        )
        return list(dict.fromkeys(subject for kind, subject in rows if kind in _MADE))
