"""Walking a folder that nobody vouches for."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusery.storage import folder as module
from fusery.storage.errors import MissingFileError, StoreDeniedError, UnsafePathError
from fusery.storage.folder import SourceFile, find_files, scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_bytes(b"{}")
    (root / "model.safetensors").write_bytes(b"weights")
    return root


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "1111").write_bytes(b"{}")
    (repository / "blobs" / "2222").write_bytes(b"weights")
    (snapshot / "config.json").symlink_to("../../blobs/1111")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2222")
    return snapshot


def test_files_are_listed_by_path_with_their_sizes(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_bytes(b"[]")
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "x").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".cache").symlink_to("/etc")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "latest-run").symlink_to(folder / "1_Pooling")
    (folder / "wandb" / "debug.log").symlink_to("gone")
    (folder / "wandb" / "run.json").write_bytes(b"{}")
    assert scan(folder) == [
        SourceFile("1_Pooling/config.json", folder / "1_Pooling" / "config.json", 2),
        SourceFile("config.json", folder / "config.json", 2),
        SourceFile("model.safetensors", folder / "model.safetensors", 7),
        SourceFile("wandb/run.json", folder / "wandb" / "run.json", 2),
    ]


def test_named_files_are_found_beside_anything(folder: Path, hub: Path, tmp_path: Path) -> None:
    (folder / "latest").symlink_to("/etc")
    (folder / "inner").symlink_to("/etc")
    (folder / "tokenizer.json").mkdir()
    names = ["config.json", "missing.json", "tokenizer.json", "inner/hostname"]
    assert find_files(folder, names) == [SourceFile("config.json", folder / "config.json", 2)]
    assert find_files(hub, ["model.safetensors"]) == [file for file in scan(hub) if "model" in file.path]
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(UnsafePathError, match=r"config\.json"):
        find_files(folder, names)


def test_folder_by_link_or_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert scan(tmp_path / "link") == scan(folder) == scan(Path("~/model")) == scan(Path("model"))


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    (folder / "latest.safetensors").symlink_to("model.safetensors")
    assert SourceFile("latest.safetensors", folder / "model.safetensors", 7) in scan(folder)


def test_a_hub_snapshot_is_read_through_its_links(hub: Path) -> None:
    blobs = hub.parent.parent / "blobs"
    assert scan(hub) == [
        SourceFile("config.json", blobs / "1111", 2),
        SourceFile("model.safetensors", blobs / "2222", 7),
    ]
    (hub / "last" / "run").mkdir(parents=True)
    (hub / "last" / "run" / "config.json").symlink_to("../../../../blobs/1111")
    assert scan(hub / "last" / "run") == [SourceFile("config.json", blobs / "1111", 2)]


def test_only_a_snapshot_of_a_hub_cache_links_out_of_its_folder(hub: Path, tmp_path: Path) -> None:
    repository = hub.parent.parent
    other = repository.with_name("models--owner--other")
    linked = repository.with_name("models--owner--linked")
    for blobs in (other / "blobs", tmp_path / "blobs"):
        blobs.mkdir(parents=True)
        (blobs / "3333").write_bytes(b"secret")
    linked.mkdir()
    (linked / "blobs").symlink_to("/etc")
    for folder, target in (
        (hub, "../../../models--owner--other/blobs/3333"),
        (repository / "trees" / "abc123", "../../blobs/1111"),
        (tmp_path / "runs" / "one", "../../blobs/3333"),
        (linked / "snapshots" / "abc", "../../blobs/hostname"),
        (hub / "last", "../../../../models--owner--other/blobs/3333"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "f").symlink_to(target)
        with pytest.raises(UnsafePathError):
            scan(folder)


def test_an_unfinished_download_is_said_so(hub: Path) -> None:
    (hub.parent.parent / "blobs" / "2222").unlink()
    with pytest.raises(MissingFileError, match=r"model\.safetensors") as caught:
        scan(hub)
    assert caught.value.hint == "was the download finished?"


def make_link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [
        make_link_to("/etc/hostname"),
        make_link_to("../outside"),
        make_link_to("."),
        make_link_to("inner"),
        make_link_to("/dev/null"),
        make_link_to("evil"),
        os.mkfifo,
    ],
    ids=["absolute", "beside", "itself", "folder", "device", "circle", "pipe"],
)
def test_what_is_no_file_of_the_folder_is_refused(folder: Path, make: Callable[[Path], None]) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    (folder / "inner").mkdir()
    make(folder / "evil")
    with pytest.raises((UnsafePathError, MissingFileError), match="evil") as caught:
        scan(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    "names",
    [
        ("Config.json", "config.json"),
        ("straße", "STRASSE"),
        (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    ],
)
def test_names_that_a_mac_takes_for_one_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes them for one")
    with pytest.raises(UnsafePathError) as caught:
        scan(tmp_path)
    assert caught.value.hint == "rename or remove one of them"


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[31mb", "a\\b", "a\u202eb", "x" * 250 + "/" + "y" * 250 + "/" + "z" * 20]
)
def test_names_that_do_not_print_or_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UnsafePathError):
        scan(tmp_path)


@pytest.mark.parametrize(("limit", "least"), [("MOST_FILES", 2), ("MOST_BYTES", 9), ("DEEPEST", 2)])
def test_limits_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, least: int) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(module, limit, least)
    assert len(scan(folder)) == 2
    monkeypatch.setattr(module, limit, least - 1)
    with pytest.raises(UnsafePathError):
        scan(folder)


@pytest.mark.parametrize(
    "name", ["nowhere", "model/nowhere", "model/config.json", "model/config.json/x", "circle"]
)
def test_what_is_no_folder_is_said_so(folder: Path, name: str) -> None:
    (folder.parent / "circle").symlink_to("circle")
    with pytest.raises((UnsafePathError, MissingFileError)) as caught:
        scan(folder.parent / name)
    assert name.rpartition("/")[2] in caught.value.message
    assert caught.value.hint


@pytest.fixture
def shared() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fusery-") as name:
        root = Path(name).resolve()
        root.chmod(0o755)
        (root / "inner").mkdir()
        (root / "inner" / "f").write_bytes(b"x")
        yield root
        (root / "inner").chmod(0o755)
        root.chmod(0o755)


@pytest.mark.parametrize("closed", [".", "inner", "inner/f"])
def test_what_may_not_be_read_is_said_so(shared: Path, closed: str) -> None:
    (shared / closed).chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreDeniedError) as caught:
            scan(shared)
    finally:
        if root:
            os.seteuid(0)
    assert caught.value.hint
