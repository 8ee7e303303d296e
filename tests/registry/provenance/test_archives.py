"""Archives that nobody vouches for: what is unpacked of them, and what is refused."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from pathlib import Path

import pytest
import zstandard

from fusery.registry import Registry
from fusery.registry.provenance import archives, files
from fusery.registry.provenance.archives import archive_kind, unpack
from fusery.registry.provenance.files import look_at
from fusery.storage.errors import FormatError, OutOfSpaceError, UnsafePathError

FILES = {"./a/x": b"one", f"{'y' * 120}/{'y' * 120}": b"", "z": bytes(5000)}


def tar(*more: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (*FILES.items(), *more):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.type = tarfile.DIRTYPE if name == "a" else tarfile.REGTYPE if name in FILES else kind
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def unpacked(data: bytes, place: Path, kind: str = "tar") -> dict[str, bytes]:
    (place / "archive").write_bytes(data)
    folder = place / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if kind in ("tar", "gz", "zst") and len(data) > 600:
        assert archive_kind(place / "archive") == kind
    unpack(place / "archive", kind, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plain_files_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, expected = tar(("a", b"")), {name.removeprefix("./"): data for name, data in FILES.items()}
    packed = {"tar": plain, "gz": gzip.compress(plain, 0), "zst": zstandard.ZstdCompressor().compress(plain)}
    for kind, data in packed.items():
        assert unpacked(data, tmp_path, kind) == expected
    monkeypatch.setattr(archives, "MOST_FILES", 4)
    assert unpacked(plain, tmp_path) == expected
    with pytest.raises(UnsafePathError):
        unpacked(tar(("a", b""), ("b", b"")), tmp_path)


def test_other_members_are_refused(tmp_path: Path) -> None:
    kinds = {"link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE, "s": tarfile.GNUTYPE_SPARSE}
    for name in ("z", "../b", *kinds):
        with pytest.raises((UnsafePathError, FormatError)):
            unpacked(tar((name, b""), kind=kinds.get(name, tarfile.REGTYPE)), tmp_path)


def test_bombs_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tar()
    for damaged in (data[:6000], gzip.compress(data)[:-20], b"\x1f\x8bx"):
        with pytest.raises(FormatError):
            unpacked(damaged, tmp_path, "tar" if damaged == data[:6000] else "gz")
    monkeypatch.setattr(archives, "FREE", len(data))
    bomb = gzip.compress(data)
    assert len(unpacked(bomb, tmp_path, "gz")) == 3
    monkeypatch.setattr(archives, "FREE", len(data) - 1)
    monkeypatch.setattr(archives, "RATIO", 1)
    with pytest.raises(UnsafePathError):
        unpacked(bomb, tmp_path, "gz")
    monkeypatch.setattr(archives, "RATIO", 100)
    free = shutil.disk_usage(tmp_path)._replace(free=2 * len(data) - 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutOfSpaceError):
        unpacked(bomb, tmp_path, "gz")
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MOST_HEADER", 100)
    with pytest.raises(FormatError):
        unpacked(data, tmp_path)


def test_an_archive_is_looked_into(sqlite_registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(packed := gzip.compress(tar()))
    seen = look_at(tmp_path / "a")
    assert (seen.kind, [file.path for file in seen.files]) == ("archive", ["a"])
    with files.unpacked(sqlite_registry.workspace, seen) as inside:
        assert sorted(file.size for file in inside.files) == sorted([0, 3, 5000, len(packed)])


def test_files_that_hold_weights_or_may(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x80\x02" + bytes(1 << 10))
    (tmp_path / "small.bin").write_bytes(b"\x80\x02")
    (tmp_path / "text.txt").write_bytes(b"\x80\x02" + bytes(1 << 10))
    (tmp_path / "odd").write_bytes((20).to_bytes(8, "little") + b'{"__metadata__": {}}')
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 35)
    assert [look_at(tmp_path / name).kind for name in ("odd", "text.txt")] == ["safetensors", "file"]
    found = look_at(tmp_path)
    assert [len([told for told in found.problems if name in told]) for name in ("weights.bin", "holes")] == [
        1,
        1,
    ]
    assert len(found.problems) == 2
    assert [(weights.path, weights.form) for weights in found.weights] == [("odd", "safetensors")]
