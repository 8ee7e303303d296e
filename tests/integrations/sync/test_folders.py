"""Folders of adapters: what is half there, damaged, a link or somebody's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest
import tiny_models

from fusery.integrations.sync import folders
from fusery.integrations.sync.plan import SyncRequest
from fusery.integrations.sync.sync import sync
from fusery.registry import Registry
from fusery.registry.documents import checksum_of
from fusery.registry.errors import BadInputError
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import Manifest
from fusery.storage.processes import process_tag

from ..conftest import fill, open_registry
from .conftest import V1, V2, acts, names_in, running

FILES = {"adapter_config.json", "adapter_model.safetensors", "fusery.json"}


def request(to: object, *references: str, **more: object) -> SyncRequest:
    return SyncRequest(str(to), references, **more)  # type: ignore[arg-type]


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_folder_for_each_and_nothing_else(stocked: Registry, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        sync(stocked, request(tmp_path / "nim", "course_rec@1"))
    finally:
        os.umask(before)
    assert oct((tmp_path / "nim").stat().st_mode & 0o777) == "0o755"
    assert inside(tmp_path / "nim") == {V1, *(f"{V1}/{name}" for name in FILES)}
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "nim" / V1).iterdir()}
    assert modes == {"0o644"}, "others read it, in a container"
    record = json.loads((tmp_path / "nim" / V1 / "fusery.json").read_text())
    assert (record["target"], record["adapters"][0]["name"]) == ("adapter", V1)
    # The same adapter gives the same bytes, for others too.
    sync(stocked, request(tmp_path / "other", "course_rec@1"))
    for name in FILES:
        assert (tmp_path / "other" / V1 / name).read_bytes() == (tmp_path / "nim" / V1 / name).read_bytes()


def test_a_folder_that_is_gone_need_not_be_removed(stocked: Registry, tmp_path: Path) -> None:
    folders.DiskFolders(stocked.workspace, tmp_path / "gone").take_away(V1)
    assert not (tmp_path / "gone").exists()


def test_what_vllm_calls_the_base(stocked: Registry, tmp_path: Path) -> None:
    """Its resolver passes over an adapter whose configuration calls the base otherwise."""
    root = tmp_path / "lora"
    sync(stocked, request(root, "course_rec@1"))
    named = request(root, "course_rec@1", base_name="/models/tiny")
    assert acts(sync(stocked, named)) == {"v1": "replace"}
    config = json.loads((root / V1 / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "/models/tiny"
    assert acts(sync(stocked, named)) == {"v1": "keep"}


def test_a_folder_that_is_damaged_is_brought_again(stocked: Registry, tmp_path: Path) -> None:
    root = tmp_path / "nim"
    sync(stocked, request(root, "course_rec@1"))
    weights = root / V1 / "adapter_model.safetensors"
    data = weights.read_bytes()

    def link() -> None:
        shutil.move(weights, tmp_path / "elsewhere")
        weights.symlink_to(tmp_path / "elsewhere")

    for harm in (
        lambda: weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1])),
        lambda: weights.write_bytes(data[:-1]),
        weights.unlink,
        lambda: (root / V1 / "adapter_model.bin").write_bytes(b"pickle"),
        link,
    ):
        harm()
        assert sync(stocked, request(root, "course_rec@1"), dry_run=True).drift
        assert acts(sync(stocked, request(root, "course_rec@1"))) == {"v1": "replace"}
        assert inside(root / V1) == FILES
        assert weights.read_bytes() == data and not weights.is_symlink()


def test_links_lead_nowhere(stocked: Registry, tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "nim", tmp_path / "precious"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "thesis").write_text("x")
    (root / V1).symlink_to(elsewhere)
    (root / V2).symlink_to(tmp_path / "nowhere")
    found = sync(stocked, request(root, "course_rec@1", "course_rec@2"))
    assert acts(found) == {"v1": "not blocked", "v2": "not load"}
    assert inside(elsewhere) == {"thesis"} and not (tmp_path / "nowhere").exists()
    assert running(stocked) == []


def test_what_killed_commands_leave_is_swept(stocked: Registry, tmp_path: Path) -> None:
    root = tmp_path / "nim"
    sync(stocked, request(root, "course_rec@1"))
    own = process_tag()
    dead = root / f".{V2}.fusery-4194303-{own.partition('-')[2]}-abc"
    alive = root / f".{V2}.fusery-{own}-abc"
    own = root / ".snapshots"
    for folder in (dead, alive, own):
        folder.mkdir()
    sync(stocked, request(root, "course_rec@1"))
    assert (dead.exists(), alive.exists(), own.exists()) == (False, True, True)


def test_places_that_cannot_be_written(stocked: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FuseryError):
        sync(stocked, request(tmp_path / "file", "course_rec@1"))
    home = stocked.workspace.settings.home
    for place in (home, home / "store", home.parent, stocked.workspace.store.url):
        with pytest.raises(BadInputError):
            sync(stocked, request(place, "course_rec@1"))
    assert running(stocked) == []


def test_a_bucket_in_which_a_command_was_killed(stocked: Registry) -> None:
    """What was being uploaded is on record, and is brought whole or taken away by the next."""
    files = fsspec.filesystem("memory")
    weights, config = "adapter_model.safetensors", "adapter_config.json"
    for left, name in (({weights}, V1), ({weights}, V2), ({weights, config}, V1), ({weights, config}, V2)):
        url = f"memory://{os.urandom(8).hex()}/loras"
        sync(stocked, request(url, V1))
        path = url.removeprefix("memory:/")
        for inner in FILES - left:
            files.rm(f"{path}/{V1}/{inner}")
        assert sync(stocked, request(url, name), dry_run=True).drift
        sync(stocked, request(url, name))
        found = {each.removeprefix(f"{path}/") for each in files.find(path)}
        assert found == {f"{name}/{inner}" for inner in FILES}


def test_configuration_is_written_last(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve takes a folder with a configuration for an adapter, and keeps what it then finds for good."""
    from fusery.storage.remote import RemoteTree

    order: list[str] = []
    put, remove = RemoteTree.put, RemoteTree.remove
    monkeypatch.setattr(
        RemoteTree,
        "put",
        lambda self, path, entry, **more: (order.append(entry.path), put(self, path, entry, **more))[1],
    )
    monkeypatch.setattr(
        RemoteTree, "remove", lambda self, name: (order.append(f"- {name}"), remove(self, name))[1]
    )
    url = f"memory://{os.urandom(8).hex()}/loras"
    sync(stocked, request(url, "course_rec@1"))
    sync(stocked, SyncRequest(url, nothing=True))
    assert order == [
        "adapter_model.safetensors",
        "adapter_config.json",
        "fusery.json",
        f"- {V1}/adapter_config.json",
        f"- {V1}/adapter_model.safetensors",
        f"- {V1}/fusery.json",
    ]


def test_two_registries_with_one_folder(stocked: Registry, tmp_path: Path) -> None:
    root, there = tmp_path / "nim", tmp_path / "b"
    there.mkdir()
    with open_registry(there / "home") as other:
        other.init()
        fill(other, tiny_models.make_base(there / "base", seed=3), there / "first", there / "second")
        both = request(root, "course_rec@1", "course_rec@2")
        sync(stocked, request(root, "course_rec@1"))
        # Another adapter of the same name.
        assert acts(sync(other, both)) == {"v1": "not blocked", "v2": "load"}
        nothing = SyncRequest(str(root), nothing=True)
        assert acts(sync(stocked, nothing)) == {"v1": "unload", "v2": "leave"}
        assert acts(sync(other, both)) == {"v1": "load", "v2": "keep"}
        assert names_in(root) == {V1, V2}


@pytest.mark.parametrize("how", ["path 5", "sparse", "fifo", "kmsg", "list", "deep"])
def test_a_record_that_is_hostile(stocked: Registry, tmp_path: Path, how: str) -> None:
    """It says nothing, takes no time, and holds up nothing else."""
    root = tmp_path / "nim"
    sync(stocked, request(root, "course_rec@1", "course_rec@2"))
    record, weights = root / V1 / "fusery.json", root / V1 / "adapter_model.safetensors"
    document = json.loads(record.read_text())
    if how == "path 5":
        document["contents"][0]["path"] = 5
        document["checksum"] = checksum_of(document)
        record.write_text(json.dumps(document))
    elif how == "sparse":
        os.truncate(weights, 1 << 40)
    elif how == "fifo":
        record.unlink()
        os.mkfifo(record)
    elif how == "kmsg":
        record.unlink()
        record.symlink_to("/dev/zero")
    else:
        record.write_text("[]" if how == "list" else "[" * 100_000)
    found = acts(sync(stocked, request(root, "course_rec@1", "course_rec@2")))
    assert found == {"v1": "replace" if how == "sparse" else "not blocked", "v2": "keep"}


def test_folders_made_meanwhile(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, write = tmp_path / "nim", folders.write_adapter

    def slowly(workspace: Workspace, name: str, *rest: object, **more: object) -> Manifest:
        (root / name).mkdir(parents=True)
        (root / name / "adapter_config.json").write_text("{}")
        return write(workspace, name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(folders, "write_adapter", slowly)
    found = sync(stocked, request(root, "course_rec@1"))
    assert acts(found) == {"v1": "not load"}
    assert inside(root / V1) == {"adapter_config.json"}
    assert running(stocked) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_of_others(stocked: Registry, tmp_path: Path) -> None:
    (tmp_path / "nim" / "lost+found").mkdir(parents=True)
    (tmp_path / "nim" / "lost+found").chmod(0)
    assert sync(stocked, request(tmp_path / "nim", "course_rec@1")).ok
