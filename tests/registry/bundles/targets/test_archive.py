from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from bundle_cases import make_bundle

from fusery.registry.bundles import BundleSource

pytestmark = pytest.mark.timing

both = pytest.mark.parametrize("compression", ["zst", "gz"])


def archive(source: BundleSource, folder: Path, compression: str) -> Path:
    folder.mkdir()
    make_bundle(source, "archive", folder, compression=compression)
    (path,) = folder.iterdir()
    return path


@both
def test_it_unpacks_to_what_model_writes(source: BundleSource, compression: str, tmp_path: Path) -> None:
    """Unpack with the system's tar; the archive names no user, group or time of this machine."""
    path = archive(source, tmp_path / "a", compression)
    assert path.name == f"{source.name}.tar.{compression}"
    assert archive(source, tmp_path / "b", compression).read_bytes() == path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(unpacked(path))) as found:
        members = found.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    (tmp_path / "plain").mkdir()
    make_bundle(source, "model", tmp_path / "plain")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path / "out"], check=True, input=unpacked(path))
    assert [root.name for root in (tmp_path / "out").iterdir()] == [source.name]
    assert contents(tmp_path / "out" / source.name) == contents(tmp_path / "plain")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def unpacked(path: Path) -> bytes:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
