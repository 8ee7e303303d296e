"""Which file system a path lies on."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from fusery.registry.database import Database, schema
from fusery.registry.database.filesystems import file_system_in
from fusery.registry.errors import DatabaseUnavailableError

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


def test_a_network_file_system_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 0:26 / {tmp_path.resolve()} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr("fusery.registry.database.filesystems._MOUNTS", mounts)
    url = f"sqlite:///{tmp_path}/not/yet/fusery.db"
    with pytest.raises(DatabaseUnavailableError) as caught:
        Database.open(url)
    assert "PostgreSQL" in (caught.value.hint or "")
    database = Database.open(url, allow_network_file_system=True)
    schema.upgrade(database)
    with database.read() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "delete"
    database.close()
