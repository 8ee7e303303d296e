"""Push and pull: read documents from one registry, and record those that the other one lacks.

Each document is recorded whole, after those that it needs.  An interrupted push leaves complete records and, at worst,
unreferenced blobs; the next push copies the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

from sqlalchemy import or_, select

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import read_object
from fusery.storage.locate import open_store
from fusery.storage.progress import SILENT, Reporter
from fusery.storage.publishing import write_atomically

from .. import tables
from ..catalog.yanks import lift
from ..database.engine import batches
from ..errors import SchemaError, ServerRefusedError, ServerUnavailableError
from ..record import Record, described
from ..records.bundles import written_bundle
from ..records.references import resolve_adapter
from ..records.transfer import Moved, SentBundle
from ..records.withdrawals import of_adapter
from ..remote.container import Position
from ..remote.documents import AdapterDocument, FusedDocument
from ..remote.server import Server
from ..workspace.workspace import Workspace
from .checks import check_package
from .registries import LocalRegistry, ServerRegistry, Side, open_server_registry, with_withdrawals
from .stored import StoredPackage

if TYPE_CHECKING:
    from ..records.transfer import Resolved


class Exchanged(Record, kw_only=False):
    """The result of `push` or `pull`, or of a dry run."""

    reference: str = described("the reference, as given")
    from_: Side = described("the registry that it comes from")
    to: Side = described("the registry that it goes to")
    dry_run: bool = described("True if nothing was written")
    items_: tuple[Moved, ...] = described("the package, in the order in which it is recorded")
    KEYS: ClassVar[tuple[str, ...]] = ("reference", "from_", "to", "dry_run", "copied", "bytes", "items_")

    @property
    def moved(self) -> list[Moved]:
        """The records that were missing or incomplete."""
        return [item for item in self.items_ if item.state in ("copied", "completed")]

    @property
    def bytes(self) -> int:
        """Size of all missing files in bytes."""
        return sum(item.bytes for item in self.items_)

    @property
    def copied(self) -> int:
        """The number of records that were missing or incomplete."""
        return len(self.moved)


def copy(
    origin: LocalRegistry | ServerRegistry | StoredPackage,
    destination: LocalRegistry | ServerRegistry,
    reference: str,
    *,
    fused: bool = False,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> Exchanged:
    """Copy an adapter, all versions of a task, a base model or a fused model from one registry to another."""
    package = origin.package(reference, fused=fused)
    check_package(package)
    if not dry_run and isinstance(destination, LocalRegistry):
        destination.workspace.ensure()
    registry, done = destination.plan(package)
    if not dry_run:
        done = destination.take(package, origin, done, reporter)
    if isinstance(destination, LocalRegistry):  # a server has added them
        done = with_withdrawals(destination.workspace, package, done)
    items = list[Moved]()
    for moved, document in zip(done, package.documents, strict=True):
        sent = document.withdrawals if isinstance(document, AdapterDocument | FusedDocument) else ()
        by_relation = {(notice.adapter, notice.relation): notice for notice in (*sent, *moved.withdrawals)}
        items.append(replace(moved, withdrawals=tuple(by_relation.values())))
    sides = origin.side(package.registry), destination.side(registry)
    return Exchanged(reference, *sides, dry_run, tuple(items))


class Options(TypedDict, total=False):
    """Options of a push or pull; see `copy`."""

    fused: bool
    dry_run: bool
    reporter: Reporter


Opened = AbstractContextManager[LocalRegistry | ServerRegistry]  # another registry, open while it is used


def push(workspace: Workspace, reference: str, opened: Opened, **options: Unpack[Options]) -> Exchanged:
    """Copy from this registry to another one, which is created in a new folder; see `copy`."""
    with opened as other:
        return copy(LocalRegistry(workspace, workspace), other, reference, **options)


def pull(
    workspace: Workspace,
    reference: str,
    opened: Opened | AbstractContextManager[StoredPackage],
    *,
    own: bool = False,
    **options: Unpack[Options],
) -> Exchanged:
    """Copy from another registry to this one; `own` if this one is its local replica; see `copy`."""
    with opened as other:
        if isinstance(other, LocalRegistry) and other.workspace.is_unmade:
            hint = "name the home folder of a registry, the folder of a backup, or the URL of a server"
            raise SchemaError(f"registry not found in {other.workspace.settings.home}", hint=hint)
        return copy(other, LocalRegistry(workspace, workspace, own), reference, **options)


_SENT = "sent"  # file with the number of the last log entry that was sent, and the entries that the server refused
_MOST_REFUSED = 1_000

_FROM_SERVER = (".received", ".recognised", ".unyanked")  # of actions for records from the server

# Actions whose command fails if the server refuses the record.
_REQUIRED = frozenset({"adapter.registered", "base.added"})
_MADE = frozenset({"adapter", "base", "calibration", "fused"})  # kinds of records that packages contain


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
    """Pull records from a server, run the block, and push the new records, and also those that an interrupted run left."""
    reporter = Reporter(progress=progress)
    _require_same(workspace, server, registry)
    for record in wanted:
        for name in dict.fromkeys((record.name, *record.withdrawn)):
            pull(workspace, name, reached(server), own=True, reporter=reporter)
        if record.kind == "adapter":
            with workspace.database.read() as session:
                yanks = of_adapter(session, resolve_adapter(session, record.name))
            if lifted := {yank.adapter for yank in yanks}.difference(record.withdrawn):
                lift(workspace, sorted(lifted))
    _send_made(workspace, server, reporter, say)
    yield
    if send:
        _send_made(workspace, server, reporter, say)
    else:
        with workspace.database.read() as session:
            newest = Position.newest(session).seq
        sent = _sent(workspace)
        if newest > sent["entry"]:
            _note_sent(workspace, {**sent, "entry": newest})


def reached(server: Server) -> Opened:
    """Return a server as the destination or source of a push or pull, over connections of its own."""
    return open_server_registry(server.url, server.token, insecure=not server.address.secure)


def _require_same(workspace: Workspace, server: Server, registry: str) -> None:
    """Give a new replica the registry's id; refuse the replica of another registry."""
    if workspace.is_unmade:
        store = open_store(workspace.settings.store)
        if store.identify() is None:
            store.initialise(registry)
        workspace.ensure()
    if workspace.identity != registry:
        home = workspace.settings.home
        problem = f"{server.url} now has another registry than the local replica in {home}"
        raise ServerRefusedError(problem, hint=f"remove {home}, and run the command again")


def _send_made(workspace: Workspace, server: Server, reporter: Reporter, say: Callable[[str], None]) -> None:
    """Send the records of new log entries; with another token than before, also those that the server refused."""
    event, key, sent = tables.EventRow, tables.FusedRow.key, _sent(workspace)
    token = digest_bytes((server.token or "").encode())
    retried = sent["refused"] if sent["token"] != token else []
    subjects, bundles, fused = dict[str, tuple[int, bool]](), list[tuple[int, SentBundle]](), set[str]()
    with workspace.database.read() as session:
        newest = Position.newest(session).seq
        new = or_(event.seq > sent["entry"], event.seq.in_(retried))
        for row in session.scalars(select(event).where(new, event.seq <= newest).order_by(event.seq)):
            if bundle := written_bundle(session, row):
                bundles.append((row.seq, bundle))
            elif row.subject_kind in _MADE and not row.action.endswith(_FROM_SERVER):
                required = row.action in _REQUIRED and row.seq > sent["entry"]
                subjects[row.subject] = row.seq, required or subjects.get(row.subject, (0, False))[1]
                fused |= {row.subject} if row.subject_kind == "fused" else set()
        for some in batches(sorted(fused)):
            fused -= set(session.scalars(select(key).where(key.in_(some))))
    for passed_over in fused:  # such a format is only in the log
        del subjects[passed_over]
    error: FuseryError | None = None
    refused: list[int] = [] if retried else sent["refused"]

    def send(entry: int, work: Callable[[], object], *, required: bool = False) -> None:
        nonlocal error
        try:
            work()
        except ServerUnavailableError:
            raise
        except FuseryError as refusal:
            error = error or (refusal if required else None)
            refused.append(entry)
            say(f"not recorded at {server.url}: {refusal.message}")

    for subject, (entry, required) in subjects.items():
        send(entry, partial(push, workspace, subject, reached(server), reporter=reporter), required=required)
    for entry, bundle in bundles:
        send(entry, partial(server.ask, "bundles/record", {"bundle": bundle}, bool, writes=True))
    if retried or newest > sent["entry"]:
        _note_sent(workspace, {"entry": newest, "refused": refused[-_MOST_REFUSED:], "token": token})
    if error is not None:
        raise error


def _sent(workspace: Workspace) -> Mapping[str, Any]:
    """Return the number of the last entry that was sent, the refused entries, and the digest of the token that they were sent with."""
    noted = workspace.settings.home / _SENT
    return read_object(noted) if noted.exists() else {"entry": 0, "refused": [], "token": ""}


def _note_sent(workspace: Workspace, sent: Mapping[str, object]) -> None:
    write_atomically(workspace.settings.home / _SENT, json.dumps(sent).encode())
