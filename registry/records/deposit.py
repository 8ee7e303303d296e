"""Deposits: bytes first, then their manifest, then one transaction that names both (docs/internals/collection.md).

`put` claims the blobs before it stores them, so that the collector spares them.  `commit` checks that the claims still hold;
if not, nothing is recorded.  A process that dies in between leaves unreferenced bytes.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.copying import Progress, Staged, pump, reading
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.failures import os_failures
from fusery.storage.interface import BlobStore
from fusery.storage.manifest import FileEntry, Manifest, Outgoing
from fusery.storage.transfer import require_room

from .. import tables
from ..database import Database
from ..database.engine import batches
from ..database.leases import INTENT_TTL, Intents, LeaseOwner, claim
from ..errors import DatabaseUnavailableError, DepositLostError

Source = Path | Staged | bytes  # where bytes are


class Deposit:
    """The files of one base or adapter on their way into the store and the database."""

    def __init__(
        self, database: Database, store: BlobStore, owner: LeaseOwner, *, ttl: float = INTENT_TTL
    ) -> None:
        self._database = database
        self._store = store
        self._intents = Intents(database, owner, ttl=ttl)
        self._manifests: Sequence[Manifest] = ()
        self._generations: dict[Digest, int] = {}

    def put(
        self,
        files: Mapping[str, Source],
        *,
        manifest: Manifest | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Store the bytes of files by their path in the artifact, and return their manifest, which may be known already."""
        if manifest is None:
            manifest = Manifest.of(_entry(path, source) for path, source in files.items())
        self.put_many([(manifest, files)], progress=progress)
        return manifest

    def put_many(
        self, artifacts: Sequence[tuple[Manifest, Mapping[str, Source]]], *, progress: Progress | None = None
    ) -> None:
        """Store the bytes of many small artifacts, each content once; raises as `put`."""
        wanted = {file.sha256: (file, files[file.path]) for manifest, files in artifacts for file in manifest}
        self._manifests = [manifest for manifest, _ in artifacts]
        contents = {digest: entry for digest, (entry, _) in wanted.items()}
        try:
            ready = self._announce(contents)
            missing = [
                one.size
                for digest, one in contents.items()
                if digest not in ready
                and not isinstance(wanted[digest][1], Staged)  # which has its room already
            ]
            require_room(self._store, missing)
            with self._intents.kept():
                files: list[Outgoing] = []
                # Where reading costs nothing, `put_file` reads what is there, and replaces it if it is damaged.
                skips = not self._store.is_local
                for digest, (entry, source) in wanted.items():
                    generation, is_ready = self._generations[digest], skips and digest in ready
                    if is_ready and self._store.size(digest, generation=generation) == entry.size:
                        continue
                    if isinstance(source, bytes):
                        self._store.put_bytes(source, generation=generation)
                    elif isinstance(source, Staged):
                        self._store.put_staged(source, generation=generation)
                    else:
                        files.append(Outgoing(source, entry, generation))
                self._store.put_files(files, progress=progress)
        except BaseException:
            self.abandon()
            raise

    def commit(self, session: Session) -> tables.ManifestRow:
        """Record the manifest and its blobs in the caller's write transaction, and return its row; raise `DepositLostError` if not protected."""
        (row,) = self.commit_many(session).values()
        return row

    def commit_many(self, session: Session) -> Mapping[str, tables.ManifestRow]:
        """Record the manifests of many artifacts and their blobs; return the rows by digest, and raise as `commit`."""
        self._settle(session)
        rows = record_manifests(session, self._manifests)
        for row in rows.values():
            for file in row.files:
                file.blob = file.sha256
        self._intents.drop(session)
        session.flush()
        return rows

    def hand_over(self, session: Session, owner: str, ttl: float) -> None:
        """Leave the blobs to another owner's claim, in the caller's write transaction: their record is still to come."""
        self._settle(session)
        claim(session, self._generations, owner, ttl)
        self._intents.drop(session)

    def _settle(self, session: Session) -> None:
        rows = _blobs(session, self._generations)
        here = {one.digest: one.generation for one in rows.values() if one.state in ("pending", "ready")}
        if not self._intents.are_alive(session, list(self._generations)) or here != self._generations:
            message = "the files were collected before they were recorded"
            raise DepositLostError(message, hint="run it again")
        for row in rows.values():
            row.state = "ready"

    def abandon(self) -> None:
        """Give up the claim on the bytes, when they will not be recorded; nothing refers to them then."""
        with contextlib.suppress(DatabaseUnavailableError), self._database.write() as session:
            self._intents.drop(session)

    @contextlib.contextmanager
    def recording(self) -> Iterator[Session]:
        """Yield the write transaction that commits the deposit; after an exception the claim is given up too."""
        try:
            with self._database.write() as session:
                yield session
        except BaseException:
            self.abandon()
            raise

    def _announce(self, contents: Mapping[Digest, FileEntry]) -> set[Digest]:
        """Insert intents and decide each blob's generation, once no collector deletes it; return which are there."""
        ready: set[Digest] = set()
        pause = 0.02
        while True:
            waiting = [entry for digest, entry in contents.items() if digest not in self._generations]
            if not waiting:
                return ready
            with self._database.write() as session:
                self._intents.claim(session, contents)
                now = Database.utcnow(session)
                rows = _blobs(session, (entry.sha256 for entry in waiting))
                for entry in waiting:
                    blob = _decide(session, rows.get(entry.sha256), entry, now)
                    if blob is not None:
                        self._generations[entry.sha256] = blob.generation
                        ready |= {entry.sha256} if blob.state == "ready" else set()
            if len(self._generations) < len(contents):
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, 2.0)


def record_manifest(session: Session, manifest: Manifest) -> tables.ManifestRow:
    """Return the row of a manifest, inserted if it is new; the files of a new one have no bytes in the store."""
    return record_manifests(session, [manifest])[manifest.digest]


def record_manifests(session: Session, manifests: Iterable[Manifest]) -> dict[str, tables.ManifestRow]:
    """Return the rows of manifests by digest; see `record_manifest`."""
    wanted = {manifest.digest: manifest for manifest in manifests}
    row = tables.ManifestRow
    queries = (select(row).where(row.digest.in_(some)) for some in batches(wanted))
    rows = {one.digest: one for query in queries for one in session.scalars(query)}
    new = []
    for digest, manifest in ((name, value) for name, value in wanted.items() if name not in rows):
        files = [tables.ManifestFileRow(path=one.path, size=one.size, sha256=one.sha256) for one in manifest]
        new.append(row(digest=digest, size=manifest.size, files=files))
    if new:
        session.add_all(new)
        session.flush()
    return rows | {one.digest: one for one in new}


def _blobs(session: Session, digests: Iterable[Digest]) -> dict[str, tables.BlobRow]:
    """Return the rows of blobs as they are now, of those that are on record."""
    blob, fresh = tables.BlobRow, {"populate_existing": True}
    queries = (select(blob).where(blob.digest.in_(some)) for some in batches(digests))
    return {row.digest: row for query in queries for row in session.scalars(query, execution_options=fresh)}


def _decide(
    session: Session, blob: tables.BlobRow | None, entry: FileEntry, now: datetime
) -> tables.BlobRow | None:
    """Return a blob's row with the generation to store it under, or None while a collector is deleting it."""
    if blob is None:
        blob = tables.BlobRow(
            digest=entry.sha256, size=entry.size, generation=0, state="pending", created_at=now
        )
        session.add(blob)
    elif blob.state == "absent":  # the collector has already raised the generation
        blob.state, blob.created_at = "pending", now
    elif blob.state == "deleting":
        if blob.tomb_expires is not None and blob.tomb_expires >= now.timestamp():
            return None
        # The collector is late or dead, and may still delete the old name: this generation never comes back.
        blob.state, blob.created_at, blob.tomb_expires = "pending", now, None
        blob.generation += 1
    return blob


def _entry(path: str, source: Source) -> FileEntry:
    if isinstance(source, bytes):
        return FileEntry(path, len(source), digest_bytes(source))
    if isinstance(source, Staged):
        return source.entry(path)
    with reading(source) as opened, os_failures(f"read {source}", near=source):
        digest, size = pump(opened.fd, None)
    return FileEntry(path, size, digest)
