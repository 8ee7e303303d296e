"""A shelf: deposits, references to them and what is in the store, for tests of collection and repair."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import delete, select
from waiting import PATIENCE

from fusery.registry import tables
from fusery.registry.database.leases import LeaseOwner
from fusery.registry.records.deposit import Deposit
from fusery.registry.upkeep.collect import TOMBSTONE, Marking
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.digest import Digest, digest_bytes


def open_workspace(
    home: Path,
    database_url: str = "",
    store_url: str = "",
    store_options: dict[str, object] | None = None,
    cache_limit: int = 1 << 40,
    user: str = "tester",
) -> Workspace:
    settings = Settings(
        home=home,
        database_url=database_url,
        store_url=store_url,
        store_options=store_options or {},
        cache_dir=None,
        cache_limit=cache_limit,
        user=user,
    )
    return Workspace(settings)


class Shelf:
    """What a registry does with blobs, without models around them; a bundle's record is what refers to them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.database = workspace.database
        self.store = workspace.store

    def begin(self, *contents: bytes) -> Deposit:
        deposit = Deposit(self.database, self.store, LeaseOwner.current())
        deposit.put({f"file-{number}": data for number, data in enumerate(contents)})
        return deposit

    def commit(self, deposit: Deposit) -> int:
        with deposit.recording() as session:
            row = deposit.commit(session)
            bundle = tables.BundleRow(
                target="test",
                path=uuid.uuid4().hex,
                digest=row.digest,
                manifest_id=row.id,
                created_at=self.database.utcnow(session),
                created_by="tester",
            )
            session.add(bundle)
            session.flush()
            return int(bundle.id)

    def keep(self, *contents: bytes) -> int:
        return self.commit(self.begin(*contents))

    def give_up(self, *contents: bytes) -> None:
        self.begin(*contents).abandon()

    def forget(self, number: int) -> None:
        with self.database.write() as session:
            session.execute(delete(tables.BundleRow).where(tables.BundleRow.id == number))

    def marking(self, tombstone: float = TOMBSTONE) -> Marking:
        with self.database.read() as session:
            started = self.database.utcnow(session)
        return Marking(self.database, self.store, grace=0.0, started=started, tombstone=tombstone)

    def row(self, data: bytes) -> tables.BlobRow:
        with self.database.read() as session:
            return session.get_one(tables.BlobRow, digest_bytes(data))

    def read(self, data: bytes) -> bytes:
        row = self.row(data)
        assert row.state == "ready"
        return self.store.read_bytes(Digest(row.digest), generation=row.generation, limit=1 << 20)

    def live(self) -> set[str]:
        with self.database.read() as session:
            files, bundle = tables.ManifestFileRow, tables.BundleRow
            query = select(files.blob).join(bundle, bundle.manifest_id == files.manifest_id)
            return {str(digest) for digest in session.scalars(query)}

    def stored(self) -> set[bytes]:
        return {
            self.store.read_bytes(blob.digest, generation=blob.generation, limit=1 << 20)
            for blob in self.store.blobs()
        }

    def files(self) -> set[bytes]:
        root = self.workspace.settings.home / "store"
        return {
            path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "format.json"
        }

    def path(self, data: bytes) -> Path:
        row = self.row(data)
        path = self.store.local_path(Digest(row.digest), generation=row.generation)
        assert path is not None
        path.chmod(0o644)
        return path

    def damage(self, data: bytes, instead: bytes) -> None:
        self.path(data).write_bytes(instead)

    @contextmanager
    def in_background(self, work: Callable[[], object]) -> Iterator[Future[object]]:
        """Do something in a thread, which must end well before the block does, or soon after."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            yield future
            future.result(PATIENCE)


def tear(shelf: Shelf, data: bytes) -> Path:
    """Leave a part file in the store's folder, as a write does that is killed; return its path."""
    part = shelf.workspace.settings.home / "store" / "tmp" / f"{uuid.uuid4().hex}.part"
    part.write_bytes(data)
    return part
