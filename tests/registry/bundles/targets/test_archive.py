from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from bundle_cases import make_bundle, model_folder, with_model

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.layout import LayoutError
from fusery.registry.bundles.target import find_target
from fusery.registry.documents import without_places
from fusery.storage.errors import BlobCorruptError

both = pytest.mark.parametrize("compression", ["zst", "gz"])


def archive(source: BundleSource, folder: Path, compression: str) -> Path:
    folder.mkdir()
    make_bundle(source, "archive", folder, compression=compression)
    (path,) = folder.iterdir()
    return path


@both
def test_it_unpacks_to_what_model_writes(source: BundleSource, compression: str, tmp_path: Path) -> None:
    """With the tar of the machine, as a user would."""
    path = archive(source, tmp_path / "a", compression)
    assert path.name == f"{source.name}.tar.{compression}"
    plain = tmp_path / "plain"
    plain.mkdir()
    make_bundle(source, "model", plain)
    data = path.read_bytes()
    if compression == "zst":
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
        path = tmp_path / "plain.tar"
        path.write_bytes(data)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "out"], check=True)
    (root,) = (tmp_path / "out").iterdir()
    assert root.name == source.name
    assert contents(root) == contents(plain)


@both
def test_the_same_bytes_every_time_and_nothing_of_the_machine(
    source: BundleSource, compression: str, tmp_path: Path
) -> None:
    first = archive(source, tmp_path / "a", compression)
    second = archive(source, tmp_path / "b", compression)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(unpacked(first))) as found:
        members = found.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_the_number_of_threads_does_not_matter() -> None:
    """`archive` says two; another machine may have another number of processors, and must write the same."""
    data = b"".join(bytes([number % 251]) * 4096 for number in range(8192))
    results = set()
    for threads in (1, 2, 5):
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, threads=threads)
        target = io.BytesIO()
        with compressor.stream_writer(target, closefd=False) as stream:
            for start in range(0, len(data), 100_000):
                stream.write(data[start : start + 100_000])
        results.add(target.getvalue())
    assert len(results) == 1


def test_a_damaged_file_is_found(source: BundleSource, tmp_path: Path) -> None:
    folder = tmp_path / "fused"
    folder.mkdir()
    for path in model_folder(source).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(BlobCorruptError, match="model.safetensors is damaged"):
        archive(with_model(source, folder=folder), tmp_path / "a", "zst")


def test_no_text_becomes_code(source: BundleSource, evil: str, tmp_path: Path) -> None:
    """Whatever the record holds, the members have the names they have, and the record reads back."""
    adapter = {**source.provenance["adapter"], "name": evil, "task": evil, "dataset": evil, "note": evil}
    provenance = {**source.provenance, "adapter": adapter, "base": {"name": evil, "digest": evil}}
    plain, spoiled = (
        tarfile.open(fileobj=io.BytesIO(unpacked(archive(each, tmp_path / name, "zst"))))  # noqa: SIM115
        for name, each in (("plain", source), ("evil", replace(source, provenance=provenance)))
    )
    with plain, spoiled:
        assert spoiled.getnames() == plain.getnames()
        record = spoiled.extractfile(f"{source.name}/fusery.json")
        assert record is not None
        assert json.load(record)["provenance"]["adapter"]["name"] == without_places(evil)


@both
def test_the_test_of_itself_finds_a_torn_one(source: BundleSource, compression: str, tmp_path: Path) -> None:
    path = archive(source, tmp_path / "a", compression)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LayoutError):
        find_target("archive").check(tmp_path / "a")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def unpacked(path: Path) -> bytes:
    if path.suffix == ".gz":
        import gzip

        return gzip.decompress(path.read_bytes())
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
