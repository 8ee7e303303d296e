"""Copying an SQLite file aside while its owner works with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fusery.registry.database import Database, files
from fusery.registry.database.files import copy_database, file_system_in
from fusery.registry.errors import DatabaseUnavailableError


def test_a_copy_has_what_is_not_merged_yet(tmp_path: Path) -> None:
    path, folder = tmp_path / "fusery.db", tmp_path / "copy"
    folder.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (1)")
        assert path.with_name("fusery.db-wal").stat().st_size
        before = sorted(file.name for file in tmp_path.iterdir())
        copy = copy_database(path, folder)
        assert sorted(file.name for file in tmp_path.iterdir()) == before
    with closing(sqlite3.connect(copy)) as reader:
        assert reader.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_a_copy_is_of_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes while each of the first files is copied."""
    path, honest = tmp_path / "fusery.db", files.pump
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (0)")
        for writes, copied in ((2, True), (99, False)):
            left = list(range(writes))

            def copy(source: int, target: int, left: list[int] = left) -> None:
                honest(source, target)
                if left:
                    left.pop()
                    writer.execute("UPDATE t SET a = a + 1")

            monkeypatch.setattr(files, "pump", copy)
            (tmp_path / str(writes)).mkdir()
            if copied:
                with closing(sqlite3.connect(copy_database(path, tmp_path / str(writes)))) as reader:
                    assert reader.execute("SELECT a FROM t").fetchall() == [(2,)]
            else:
                with pytest.raises(DatabaseUnavailableError):
                    copy_database(path, tmp_path / str(writes))


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A database that a process which was killed has left in the middle of a write."""
    path = tmp_path / "fusery.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (zeroblob(100000))")
        writer.execute("PRAGMA cache_size=2")
        writer.execute("BEGIN")
        writer.execute("UPDATE t SET a = randomblob(100000)")
        files = {name: (tmp_path / name).read_bytes() for name in ("fusery.db", "fusery.db-journal")}
        writer.execute("ROLLBACK")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return path


def is_undone(path: Path) -> bool:
    with closing(Database.open(f"sqlite:///{path}")) as database, database.write() as session:
        return bool(session.connection().exec_driver_sql("SELECT a = zeroblob(100000) FROM t").scalar())


def test_a_write_that_was_interrupted_is_undone_in_the_copy(interrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    before = interrupted.read_bytes()
    assert is_undone(copy_database(interrupted, folder))
    assert interrupted.read_bytes() == before
    assert interrupted.with_name("fusery.db-journal").exists()
    assert is_undone(interrupted)


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
    monkeypatch.setattr("fusery.registry.database.files._MOUNTS", mounts)
    url = f"sqlite:///{tmp_path}/not/yet/fusery.db"
    with pytest.raises(DatabaseUnavailableError) as caught:
        Database.open(url)
    assert "PostgreSQL" in (caught.value.hint or "")
