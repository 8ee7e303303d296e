"""Each kind of place: what was built there is whole or not there, and what is there already is looked at."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.bundles.delivery import Place, place_at
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.storage.digest import digest_bytes
from fusery.storage.locate import StoreUrlError
from fusery.storage.manifest import FileEntry, Manifest

Files = dict[str, bytes]
ONE: Files = {"fusery.json": b"{}", "a/b.bin": b"b" * 5000, "empty": b""}
TWO: Files = {"fusery.json": b"{ }", "c": b"c"}
RECORD_ALONE: Files = {"fusery.json": b"{  }"}


def fill(files: Files) -> Callable[[Path], Manifest]:
    def into(folder: Path) -> Manifest:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        return Manifest.of(FileEntry(name, len(data), digest_bytes(data)) for name, data in files.items())

    return into


def put(place: Place, files: Files, *, force: bool = False) -> bool:
    replaced: list[bool] = []
    place.require_free(force)
    with place.building() as folder:
        manifest = fill(files)(folder)
        note = partial(replaced.append, True)
        existed = place.deliver(folder, manifest, force=force, prepare=note)
    assert len(replaced) == (not existed), "it is told before something is written, and only then"
    return existed


@pytest.fixture(params=["folder", "memory"])
def folder_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/out"


@pytest.fixture(params=["file", "memory"])
def file_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = "x.tar.zst"
    return str(tmp_path / name) if request.param == "file" else f"memory://{uuid.uuid4().hex}/out/{name}"


def read(url: str) -> Files:
    if not url.startswith("memory:"):
        root = Path(url)
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    import fsspec

    start = url.removeprefix("memory:/") + "/"
    files = fsspec.filesystem("memory").store
    return {
        name.removeprefix(start): file.getvalue() for name, file in files.items() if name.startswith(start)
    }


def test_a_folder_gives_way_by_force_only(registry: Registry, folder_url: str) -> None:
    place = place_at(registry.workspace, folder_url)
    assert place.text == folder_url
    assert not put(place, ONE)
    assert read(folder_url) == ONE
    assert put(place, ONE), "the same again is not written again"
    for other in (TWO, {**ONE, "empty": b"?"}, {**ONE, "fusery.json": b"[]"}):
        with pytest.raises(AlreadyExistsError):
            put(place, other)
    assert read(folder_url) == ONE
    put(place, TWO, force=True)
    assert read(folder_url) == TWO, "nothing of the old one is left"
    put(place, RECORD_ALONE, force=True)
    assert read(folder_url) == RECORD_ALONE
    put(place, {"mine.txt": b"no bundle"}, force=True)
    with pytest.raises(AlreadyExistsError):
        place.require_free(force=False)


def test_a_build_that_fails_leaves_nothing(registry: Registry, folder_url: str) -> None:
    place = place_at(registry.workspace, folder_url)

    with pytest.raises(BadInputError), place.building() as folder:
        (folder / "half").write_bytes(b"half")
        raise BadInputError("no")
    assert read(folder_url) == {}


def test_interrupted_upload_is_no_bundle(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.storage.remote import RemoteTree

    url = f"memory://{uuid.uuid4().hex}/out"
    place = place_at(registry.workspace, url)
    put(place, ONE)
    real = RemoteTree.put
    written: list[str] = []

    def stop(self: RemoteTree, path: Path, entry: FileEntry, **options: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(entry.path)
        real(self, path, entry)

    monkeypatch.setattr(RemoteTree, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        put(place, TWO, force=True)
    assert "fusery.json" not in read(url), "half of one bundle and half of another must not look like one"
    monkeypatch.undo()
    put(place, TWO, force=True)
    assert read(url) == TWO


def test_one_file(registry: Registry, file_url: str) -> None:
    place = place_at(registry.workspace, file_url, single=True)
    one, two = {"named.tar.zst": b"1" * 9000}, {"named.tar.zst": b"2"}
    assert not put(place, one)
    assert put(place, one)
    with pytest.raises(AlreadyExistsError):
        put(place, two)
    put(place, two, force=True)
    if file_url.startswith("memory:"):
        assert read(file_url.rpartition("/")[0]) == {"x.tar.zst": b"2"}
    else:
        assert Path(file_url).read_bytes() == b"2"


def test_a_folder_on_this_machine(registry: Registry, tmp_path: Path) -> None:
    put(place_at(registry.workspace, tmp_path / "new" / "folders" / "out"), ONE)
    (tmp_path / "empty").mkdir()
    put(place_at(registry.workspace, tmp_path / "empty"), ONE)
    assert read(str(tmp_path / "empty")) == ONE
    (tmp_path / "file").write_bytes(b"mine")
    for name, single, error in (
        ("file", False, AlreadyExistsError),
        ("empty", True, AlreadyExistsError),
        ("file/inner", False, BadInputError),
        ("file/inner", True, BadInputError),
    ):
        with pytest.raises(error):
            place_at(registry.workspace, tmp_path / name, single=single).require_free(force=True)
    with pytest.raises(BadInputError):
        place_at(registry.workspace, Path("s3://bucket/x"))
    with pytest.raises(BadInputError):
        place_at(registry.workspace, "memory://x", single=True)


@pytest.mark.parametrize("single", [False, True])
def test_a_bundle_is_on_the_disk_before_it_has_its_name(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: bool
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    out = tmp_path / "out"
    put(place_at(registry.workspace, out, single=single), {"x": b"x"} if single else ONE)
    written = [out, *out.rglob("*")]
    assert {path.stat().st_ino for path in written} <= set(synced)
    assert synced[-1] == tmp_path.stat().st_ino, "its name is"


def test_urls_that_nothing_can_be_at(registry: Registry) -> None:
    for url in ("s3://user:secret@bucket/x", "ftp://host/x", "memory://a::b"):
        with pytest.raises(StoreUrlError) as caught:
            place_at(registry.workspace, url)
        assert "secret" not in str(caught.value)


def test_the_store_of_the_registry_is_no_place(tmp_path: Path) -> None:
    from fusery.registry.workspace.settings import Settings
    from fusery.registry.workspace.workspace import Workspace

    name = uuid.uuid4().hex
    settings = replace(Settings.load(tmp_path / "home"), store_url=f"memory://{name}/store")
    workspace = Workspace(settings)
    Registry(workspace).init()
    for url in (f"memory://{name}/store", f"memory://{name}/store/x", f"memory://{name}"):
        with pytest.raises(BadInputError):
            place_at(workspace, url).refuse_ours(workspace)
    place_at(workspace, f"memory://{name}/storeroom").refuse_ours(workspace)
    workspace.close()


def test_what_a_killed_command_left_is_swept(stocked: Registry, tmp_path: Path) -> None:
    from fusery.storage.processes import process_tag

    tag = process_tag()
    place = tag.partition("-")[2]
    stale, running = tmp_path / f".out.fusery-4194303-{place}-abc_9", tmp_path / f".out.fusery-{tag}-def"
    elsewhere = tmp_path / ".out.fusery-4194303-1-0123456789ab-ghi"
    for folder in (stale, running, elsewhere):
        (folder / "out").mkdir(parents=True)
    stocked.bundles.materialize("course_rec@1", tmp_path / "out")
    assert not stale.exists()
    assert running.exists()
    assert elsewhere.exists()


def test_nothing_of_ours_is_replaced(
    registry: Registry, tiny_base: Path, tmp_path: Path, make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "tiny")
    registry.bases.add(base, reference=True)
    registry.adapters.register(make_adapter(seed=1), base="tiny", task="one")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = set(tmp_path.rglob("*"))
    for place in ("home", "home/store/x", "home/cache", "home/cache/fused/x", ".", "..", "tiny", "tiny/x"):
        for force in (False, True):
            target = Path(place) if place.startswith(".") else tmp_path / place
            with pytest.raises(BadInputError):
                registry.bundles.materialize("one@1", target, force=force)
            assert before <= set(tmp_path.rglob("*"))
    assert registry.upkeep.audit().ok


def test_store_outside_the_home(tmp_path: Path, tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    """Its folder is kept as a URL; a blank in it is written otherwise there."""
    store = tmp_path / "our store"
    with Registry(open_workspace(tmp_path / "home", "", str(store))) as registry:
        registry.init()
        registry.bases.add(tiny_base, name="tiny")
        registry.adapters.register(make_adapter(), base="tiny", task="course_rec")
        for place in (store, store / "bundle", tmp_path):
            with pytest.raises(BadInputError):
                registry.bundles.materialize("course_rec@1", place, force=True)
        assert registry.upkeep.audit().ok
