"""Reading an SQLite file in a folder that cannot be written, and the file systems that are refused."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from fusery.registry.database import Database
from fusery.registry.database.connection import Snapshot, file_system_in
from fusery.registry.errors import DatabaseReadOnlyError, DatabaseUnavailableError
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.transfer import NOTES


@pytest.mark.parametrize("is_open", [True, False])
def test_a_file_is_read_from_a_copy_and_nothing_is_made_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    path = tmp_path / "a b#.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"):
            writer.execute(statement)
        if not is_open:
            writer.close()
        before = sorted(file.name for file in tmp_path.iterdir())
        assert len(before) == (3 if is_open else 1)
        monkeypatch.setattr("os.access", lambda place, mode: place != tmp_path)
        with closing(Database.open(f"sqlite:///{path}")) as database:
            with database.read() as session:
                assert session.connection().exec_driver_sql("SELECT a FROM t").scalar() == 1
            with pytest.raises(DatabaseReadOnlyError), database.write():
                pass
        assert sorted(file.name for file in tmp_path.iterdir()) == before
        [need] = Workspace(Settings(home=tmp_path, database_url=f"sqlite:///{path}")).notes
        assert (need.folder, need.sizes, need.taken > 0) == (tmp_path, [NOTES], is_open)
    assert Workspace(Settings(home=tmp_path, database_url="postgresql://h/d")).notes == []


def test_a_copy_is_of_one_state_and_made_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes while the first files are copied: once, and then at every attempt."""
    path, copyfile = tmp_path / "fusery.db", shutil.copyfile
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
        closing(Snapshot(path)) as snapshot,
    ):
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (0)")
        for writes in (1, 99):
            left = list(range(writes))

            def copy(source: Path, target: Path, left: list[int] = left) -> None:
                copyfile(source, target)
                if left:
                    left.pop()
                    writer.execute("UPDATE t SET a = a + 1")

            monkeypatch.setattr(shutil, "copyfile", copy)
            if writes == 1:
                with closing(snapshot.connect()) as reader:
                    assert reader.execute("SELECT a FROM t").fetchall() == [(1,)]
                    folder = Path(reader.execute("PRAGMA database_list").fetchone()[2]).parent
                writer.execute("UPDATE t SET a = 7")
                with closing(snapshot.connect()) as reader:
                    assert reader.execute("SELECT a FROM t").fetchall() == [(7,)]
            else:
                writer.execute("UPDATE t SET a = 8")
                with pytest.raises(DatabaseUnavailableError):
                    snapshot.connect()
    del reader  # a connection keeps its copy
    assert not folder.exists()


@pytest.mark.timing
def test_threads_read_while_the_owner_writes(tmp_path: Path) -> None:
    path = tmp_path / "fusery.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
        closing(Snapshot(path)) as snapshot,
        ThreadPoolExecutor(4) as threads,
    ):
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (a)")

        def count(_: int) -> int:
            with closing(snapshot.connect()) as reader:
                return int(reader.execute("SELECT count(*) FROM t").fetchone()[0])

        for number in range(20):
            counts = threads.map(count, range(8))
            writer.execute("INSERT INTO t VALUES (1)")
            assert set(counts) <= {number, number + 1}


def test_a_write_that_was_interrupted_is_undone_in_the_copy_alone(tmp_path: Path) -> None:
    path = tmp_path / "fusery.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        for statement in (
            "CREATE TABLE t (a)", "INSERT INTO t VALUES (zeroblob(100000))", "PRAGMA cache_size=2", "BEGIN",
            "UPDATE t SET a = randomblob(100000)",
        ):  # fmt: skip
            writer.execute(statement)
        files = {name: (tmp_path / name).read_bytes() for name in ("fusery.db", "fusery.db-journal")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with closing(Snapshot(path)) as snapshot, closing(snapshot.connect()) as reader:
        assert reader.execute("SELECT a = zeroblob(100000) FROM t").fetchone() == (1,)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/local rw - xfs /dev/sdb rw
32 22 0:40 / /mnt/my\040share rw - cifs //server/share rw
33 22 0:41 / /mnt/bucket rw - fuse.s3fs s3fs rw
34 22 8:3 / /data rw - ext4 /dev/sdc rw
35 22 0:42 / /data rw - lustre mds:/x rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/home/ann/fusery.db", "nfs4"),
        ("/home/local/fusery.db", "xfs"),
        ("/home/localhost", "nfs4"),
        ("/mnt/my share/x", "cifs"),
        ("/data/x", "lustre"),
    ],
)
def test_the_mount_that_holds_a_path_counts(path: str, kind: str) -> None:
    assert file_system_in(MOUNTS, Path(path)) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 0:26 / {tmp_path.resolve()} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr("fusery.registry.database.connection._MOUNTS", mounts)
    url = f"sqlite:///{tmp_path}/not/yet/fusery.db"
    with pytest.raises(DatabaseUnavailableError) as caught:
        Database.open(url)
    assert "PostgreSQL" in (caught.value.hint or "")
