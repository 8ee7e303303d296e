"""A backup is data like any other: what it says is held against its bytes before anything of it is on record.

It is filled into a database of its own first, which goes away again, and looked at there.  What cannot be is refused.  And
what only a registry's own people can vouch for does not count unless the user says that the backup is their own: fused
models, trusted keys, approvals, tokens, and what admission is said to have found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fusery.storage.interface import BlobStore
from fusery.storage.room import Need, require_rooms
from fusery.storage.temporary import temporary_folder

from .. import tables
from ..admission import Finding
from ..audit.admitting import findings_today
from ..audit.auditable import AuditableItem, auditable_items
from ..audit.recomputing import recompute
from ..audit.report import Report
from ..database import Database, events, log
from ..database.actions import ADOPTED
from ..database.limits import AMENDMENTS, DEPLOYMENTS, EVALUATIONS, YANKS
from ..database.sealing import KINDS, seal_rows
from ..fusion.foreign import disown
from ..parsing import CLOCK_SKEW
from ..record import Record
from ..tables.values import kind_of
from .catalogue import Catalogue
from .errors import BackupError
from .filling import fill
from .reading import Backup

if TYPE_CHECKING:
    from ..workspace import Workspace

Say = Callable[[str], None]

_EMPTY, _TIMES = 4 << 20, 4
"""Bytes of an empty database, and further bytes for each byte of the rows as text; both include the write-ahead log."""

"""The action of an entry of the log that says what of a backup does not count."""

_IDENTITIES = frozenset({"content_differs", "key_differs"})
"""What is held against the bytes of one's own backup, too; how facts are derived may change with the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt(Record):
    """An adapter of a backup of which admission finds more than is on record.

    Attributes:
        adapter: its name.
        findings: what is not on record.
    """

    adapter: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Doubts:
    """What is found about a backup that is not refused.

    Attributes:
        findings: by the number of an adapter's row, what admission finds here and the record does not have.
        names: of those adapters.
    """

    findings: dict[int, list[Finding]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    @property
    def listed(self) -> tuple[Doubt, ...]:
        """The adapters, by the numbers of their rows."""
        return tuple(
            Doubt(adapter=self.names[number], findings=tuple(found))
            for number, found in sorted(self.findings.items())
        )


@contextmanager
def rehearsal(workspace: Workspace, folder: Path, fill: Callable[[Database], None]) -> Iterator[Workspace]:
    """Yield a workspace on a database of its own, filled with a backup, and on the store that its blobs are in already.

    Args:
        workspace: the registry to be.
        folder: for the database.
        fill: fills it.
    """
    from ..workspace import Workspace as Parts

    url = f"sqlite:///{folder / 'rehearsal.db'}"
    with closing(Database.open(url)) as database:
        fill(database)
    parts = Parts(replace(workspace.settings, database_url=url))
    try:
        yield parts
    finally:
        parts.close()


def require_restorable(workspace: Workspace, place: BlobStore, catalogue: Catalogue, say: Say) -> None:
    """Restore a backup's rows into a temporary database, and compare them with the bytes in the registry's store.

    The blobs are not copied: those at the backup's place have been verified, and have the same digests.

    Args:
        workspace: the registry that was backed up.
        place: the store that holds the backup.
        catalogue: the backup's catalogue.
        say: called with each progress message.

    Raises:
        BackupError: a restore would refuse the backup.
        OutOfSpaceError: there is no room for the temporary database.
    """
    say("restoring into a temporary database")
    with temporary_folder("verify") as folder:
        found = Backup(place, folder, catalogue)
        require_rooms([Need(folder, [database_size(catalogue)])])

        def write(target: Database) -> None:
            blobs = found.file(tables.Blob.__tablename__)
            with target.schema_change() as connection:
                fill(
                    connection,
                    found,
                    store_id=catalogue.store,
                    generations={row["digest"]: row["generation"] for row in found.rows(blobs)},
                    stored=set(found.blobs()),
                    actor=workspace.actor,
                )

        try:
            found.fetch()
            with rehearsal(workspace, folder, write) as rehearsed:
                examine_backup(rehearsed, found, own=True, say=say)
        except BackupError as error:
            raise BackupError(
                f"the new backup cannot be restored: {error.message}",
                hint="fusery audit; the previous backup is kept",
            ) from error


def database_size(catalogue: Catalogue) -> int:
    """Return the most bytes that a database with a backup's rows takes."""
    return _EMPTY + _TIMES * sum(file.size for file in catalogue.files)


def examine_backup(workspace: Workspace, found: Backup, *, own: bool, say: Say) -> Doubts:
    """Compare a backup with its bytes; return the doubts about it.

    Args:
        workspace: of the rehearsal.
        found: the backup.
        own: it is the user's own.
        say: called with each progress message.

    Raises:
        BackupError: it says something that its bytes do not bear out.
    """
    report, doubts = Report(), Doubts()
    with workspace.database.read() as session:
        held = list(auditable_items(session, workspace, (), report))
    for problem in report.problems:
        if problem.code != "manifest_changed":  # which file says so is known below
            raise found.refuse("backup.json", f"has a record that cannot be read: {problem.message}")
    for item in held:
        _require_true(workspace, found, item, own=own)
    if own:
        return doubts
    with workspace.database.read() as session:
        _require_limits(session, found)
    for item in held:
        if item.kind == "adapter":
            say(f"looking at {item.name}")
            number = _number(item)
            if new := findings_today(workspace, number):
                doubts.findings[number], doubts.names[number] = new, item.name
                codes = ", ".join(sorted({finding.code for finding in new}))
                say(f"{item.name}: admission finds here what is not on record: {codes}")
    return doubts


_LIMITED: tuple[tuple[Any, int], ...] = (
    (tables.Yank, YANKS),
    (tables.Amendment, AMENDMENTS),
    (tables.Evaluation, EVALUATIONS),
    (tables.Deployment, DEPLOYMENTS),
)


def _require_limits(session: Session, found: Backup) -> None:
    """Refuse a foreign backup that exceeds the limits on one adapter, or has dates in the future."""
    for model, limit in _LIMITED:
        key = model.adapter_id
        query = select(key).where(key.is_not(None)).group_by(key).having(func.count() > limit).limit(1)
        if session.scalar(query) is not None:
            table = model.__tablename__
            raise found.refuse(f"{table}.ndjson", f"has over {limit:,} rows about one adapter")
    latest = datetime.now(UTC) + CLOCK_SKEW
    for table in tables.metadata.sorted_tables:
        for column in table.columns:
            # A token may expire, and a delivery may be due, in the future.
            if kind_of(column) != "moment" or column.name in ("expires_at", "next_at"):
                continue
            newest = session.scalar(select(func.max(column)))
            if newest is not None and newest > latest:
                raise found.refuse(f"{table.name}.ndjson", f"has a date in the future: {newest:%Y-%m-%d}")


def _require_true(workspace: Workspace, found: Backup, item: AuditableItem, *, own: bool) -> None:
    table = {"base": "base_model"}.get(item.kind, item.kind)
    if item.manifest.digest != item.digest:
        raise found.refuse(
            f"{table}.ndjson",
            f"has the digest {item.digest[:12]} of {item.name}, which its files do not have",
        )
    if item.kind == "base" and item.folder is not None:
        return  # kept by reference: its bytes are in no backup, and a folder that a backup names is not read
    for untrue in recompute(workspace, item, []):
        if untrue.code != "adapter_unfit" and (not own or untrue.code in _IDENTITIES):
            raise found.refuse(f"{untrue.table}.ndjson", f"is not true of {untrue.subject}: {untrue.message}")


def _number(item: AuditableItem) -> int:
    return next(number for kind, number in item.records if kind == item.kind)


def adopt(session: Session, found: Backup, doubts: Doubts, *, actor: str) -> dict[str, int]:
    """Let nothing of somebody else's backup count that only its own people can vouch for; return how much that was.

    Args:
        session: of the only writer, after the rows are there.
        found: the backup.
        doubts: what was found about it.
        actor: who restores.
    """
    fused = list(session.scalars(select(tables.Fused).where(tables.Fused.origin.is_(None))))
    for row in fused:
        disown(row, found.catalogue.store)
    key, approval = tables.TrustedKey, tables.Approval
    keys = list(session.scalars(select(key).where(key.revoked_at.is_(None))))
    for trusted in keys:
        trusted.aliases, trusted.fused = [], None
    approvals = list(session.scalars(select(approval).where(approval.withdrawn_at.is_(None))))
    token = tables.Token
    tokens = list(session.scalars(select(token).where(token.revoked_at.is_(None))))
    now = Database.utcnow(session)
    for said in approvals:
        said.withdrawn_at = now
    for one in tokens:
        one.revoked_at, one.revoked_by = now, actor
    delivery = tables.WebhookDelivery
    hooks = list(session.scalars(select(delivery).where(delivery.disabled_at.is_(None))))
    for sent in hooks:  # or what happens here would be sent to receivers of theirs
        sent.disabled_at, sent.error = now, "it came with a backup of others"
    for number, findings in doubts.findings.items():
        session.add_all(tables.AdapterFinding(adapter_id=number, **finding.to_dict()) for finding in findings)
    session.flush()
    counts = {
        "fused": len(fused),
        "trusted_keys": len(keys),
        "approvals": len(approvals),
        "tokens": len(tokens),
        "webhooks": len(hooks),
        "adapters": len(doubts.findings),
    }
    if any(counts.values()):
        events.record(
            session,
            action=ADOPTED,
            kind="registry",
            subject=found.catalogue.store,
            detail=counts,
            actor=actor,
        )
        touched = {
            "fused": [row.id for row in fused],
            "trusted_key": [row.id for row in keys],
            "approval": [row.id for row in approvals],
            "token": [row.id for row in tokens],
            "adapter": list(doubts.findings),
        }
        seals = [
            seal for kind, numbers in touched.items() for seal in seal_rows(session, KINDS[kind], numbers)
        ]
        log.write(session, seals)
    return counts
