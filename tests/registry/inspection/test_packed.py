"""Archives without a signature: every member is compared with the archive's own list, and no other is unpacked."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import zstandard

from fusery.registry.signing.verify import verify

Copy = Callable[[str], Path]


@pytest.fixture
def archive(bundle: Copy) -> Path:
    return bundle("archive")


def members(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    data = zstandard.ZstdDecompressor().stream_reader(archive.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = []
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found.append((member, file.read()))
        return found


def packed(found: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member, content in found:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def pack(archive: Path, found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    archive.write_bytes(zstandard.ZstdCompressor().compress(packed(found)))


def problems(archive: Path) -> list[tuple[str, str]]:
    """Return each problem's code and the path within the archive."""
    return [(each.code, each.path.removeprefix(f"{archive.name}: ")) for each in verify(archive).problems]


def test_it_says_what_it_is(archive: Path) -> None:
    result = verify(archive)
    assert result.problems == [] and result.verdict == "unproven"
    claim = result.claim
    assert claim is not None and claim.complete
    assert (claim.kind, claim.name) == ("archive", "course_rec_v1_20260101")
    archive.write_bytes(gzip.compress(packed(members(archive))))
    assert verify(archive).problems == [], "packed otherwise it is as good"


def test_a_changed_member_is_named(archive: Path) -> None:
    for index in range(len(members(archive))):
        found = members(archive)
        member, content = found[index]
        spoiled = bytearray(content)
        spoiled[Random(index).randrange(len(content))] ^= 1
        pack(archive, [*found[:index], (member, bytes(spoiled)), *found[index + 1 :]])
        assert {path for _, path in problems(archive)} == {member.name.partition("/")[2]}
        pack(archive, found)


def test_a_missing_and_an_added_member_are_named(archive: Path) -> None:
    found = members(archive)
    pack(archive, [each for each in found if not each[0].name.endswith("/README.md")])
    assert problems(archive) == [("missing", "README.md")]
    kinds = {"x/../../evil": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE}
    for name, kind in kinds.items():
        extra = tarfile.TarInfo(name)
        extra.type = kind
        pack(archive, [*found, (extra, b"")])
        assert ("added", name) in problems(archive)


def test_a_bomb_is_not_unpacked(archive: Path) -> None:
    bomb = tarfile.TarInfo("course_rec_v1_20260101/bomb")
    bomb.size = 1 << 40
    files = packed(members(archive)).rstrip(b"\0")
    data = files + bytes(-len(files) % 512) + bomb.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 26)
    archive.write_bytes(zstandard.ZstdCompressor().compress(data))
    assert ("added", "bomb") in problems(archive)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_not_read(archive: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 33
    packer = zstandard.ZstdCompressor().compressobj()
    start = packer.compress(header.tobuf(tarfile.GNU_FORMAT))
    zeros = bytes(1 << 24)
    archive.write_bytes(start + b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush())
    tracemalloc.start()
    result = verify(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.claim is None and peak < 64 << 20


def test_what_follows_the_archive_is_found(archive: Path) -> None:
    data = zstandard.ZstdDecompressor().stream_reader(archive.read_bytes()).read()
    archive.write_bytes(zstandard.ZstdCompressor().compress(data + bytes(80 << 20)))
    assert [path for _, path in problems(archive)] == [archive.name]
    archive.write_bytes(zstandard.ZstdCompressor().compress(data + bytes(1 << 16)))
    assert problems(archive) == [], "padding is none of it"


def test_a_record_that_lies_about_a_member_is_named(archive: Path) -> None:
    found = members(archive)
    record = json.loads(found[0][1])
    record["contents"][0]["sha256"] = "0" * 64
    found[0] = (found[0][0], json.dumps(record).encode())
    pack(archive, found)
    assert "fusery.json" in {path for _, path in problems(archive)}


def test_cut_off_and_flipped_archives_are_no_tracebacks(archive: Path) -> None:
    data, random = archive.read_bytes(), Random(3)
    for _ in range(30):
        archive.write_bytes(data[: random.randrange(len(data) // 2, len(data) - 1)])
        result = verify(archive)
        assert result.claim is None or {problem.path for problem in result.problems}
    found = 0
    for _ in range(30):
        spoiled = bytearray(data)
        spoiled[random.randrange(20, len(data))] ^= 1 << random.randrange(8)
        archive.write_bytes(spoiled)
        result = verify(archive)
        found += bool(result.problems) or result.claim is None
    assert found >= 29  # a compressor's header has bits that mean nothing


def test_other_archives_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"anything"))
    result = verify(tmp_path / "x.gz")
    assert (result.claim, result.problems, result.verdict) == (None, [], "unproven")
