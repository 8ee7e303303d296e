"""Backup and restore: the same registry on another database and store, and nothing from a backup that was touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from full_registry import fill, used
from kept_registries import lasting_registry
from package_files import blob_path, change_contents, change_lines, member_path
from sqlalchemy import select, update
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, SchemaError
from fusery.registry.exchange.filling import NotEmptyError
from fusery.registry.remote.container import BackupError, Contents
from fusery.storage.errors import BlobCorruptError, FuseryError, StoreMismatchError
from fusery.storage.local import LocalStore

Change = Callable[[Path], Any]


def open_registry(home: Path, database_url: str = "") -> Registry:
    """Open a registry with its own home."""
    return Registry(open_workspace(home, database_url))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with rows in every table, one on each database: a backup changes nothing of it."""
    folder = tmp_path_factory.mktemp("full")
    with lasting_registry(request, request.param, folder) as registry:
        yield fill(registry, tiny_base, folder / "files")


@pytest.fixture(scope="module")
def small_once(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the home of a small registry, as it was before a backup and after, and with that; not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    with open_registry(folder / "before") as opened:
        opened.init()
        opened.bases.add(tiny_base, name="tiny")
        adapter = tiny_models.make_adapter(folder / "adapter", tiny_base, seed=1)
        opened.adapters.register(adapter, base="tiny", task="course_rec", date="20260115")
    shutil.copytree(folder / "before", folder / "after")
    with open_registry(folder / "after") as opened:
        opened.upkeep.backup(folder / "backup")
    return folder


@pytest.fixture
def small(small_once: Path, tmp_path: Path) -> Iterator[Registry]:
    """A small registry on SQLite."""
    shutil.copytree(small_once / "before", tmp_path / "small")
    with open_registry(tmp_path / "small") as opened:
        yield opened


@pytest.fixture
def saved(small_once: Path, tmp_path: Path) -> Iterator[Registry]:
    """The same registry after a backup to the folder `backup`."""
    shutil.copytree(small_once / "after", tmp_path / "small")
    shutil.copytree(small_once / "backup", tmp_path / "backup")
    with open_registry(tmp_path / "small") as opened:
        yield opened


def contents(place: Path) -> Contents:
    found = Contents.read(LocalStore(place))
    assert found is not None
    return found


@pytest.fixture
def other_url(request: pytest.FixtureRequest, full: Registry) -> str:
    """The URL of an empty database of the other kind."""
    if full.workspace.database.dialect != "sqlite":
        return ""
    return str(request.getfixturevalue("postgres_url"))


def test_every_table_is_filled_by_the_fixture_and_named_by_the_backup(full: Registry, tmp_path: Path) -> None:
    assert [name for name, filled in used(full).items() if not filled] == []
    full.upkeep.backup(tmp_path / "backup")
    rows = {member.stem: member.lines for member in contents(tmp_path / "backup").within("rows")}
    assert rows.keys() == tables.metadata.tables.keys()
    assert [name for name, count in rows.items() if count == 0] == ["intent"]


def test_a_restored_registry_is_the_same_on_the_other_kind_of_database(
    full: Registry, other_url: str, tmp_path: Path, tiny_base: Path
) -> None:
    made = full.upkeep.backup(tmp_path / "backup")
    with open_registry(tmp_path / "restored", other_url) as restored:
        answer = restored.upkeep.restore(tmp_path / "backup", own=True)
        restored.upkeep.backup(tmp_path / "again")
        assert contents(tmp_path / "backup").members == contents(tmp_path / "again").members
        assert answer.last_event == made.last_event
        assert restored.adapters.list() == full.adapters.list()
        assert restored.aliases.history("course_rec#prod") == full.aliases.history("course_rec#prod")
        assert restored.upkeep.audit().ok, restored.upkeep.audit().problems
        adapter = tiny_models.make_adapter(tmp_path / "third", tiny_base, seed=3)
        registered = restored.adapters.register(adapter, base="tiny", task="course_rec", date="20260301")
        assert registered["version"] == 3
        restored.aliases.set("canary", "course_rec@3")
        assert restored.fused.fuse("course_rec@3").cached is False


def test_a_blob_that_moved_on_to_another_generation_is_kept_under_it(small: Registry, tmp_path: Path) -> None:
    with small.workspace.database.write() as session:
        blob = session.scalars(select(tables.BlobRow)).first()
        assert blob is not None
        digest, blob.generation = blob.digest, 5
        old = small.workspace.store.local_path(digest)  # type: ignore[arg-type]
        assert old is not None
        old.rename(old.with_name(f"{digest}.g5"))
    small.upkeep.backup(tmp_path / "backup")
    with open_registry(tmp_path / "restored") as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert restored.upkeep.audit().ok
        assert restored.workspace.store.size(digest, generation=5) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("keep_store", [True, False])
def test_a_lost_database_is_restored_onto_its_own_store(
    saved: Registry, tmp_path: Path, keep_store: bool
) -> None:
    saved.close()
    for file in (tmp_path / "small").glob("fusery.db*"):
        file.unlink()
    if not keep_store:
        shutil.rmtree(tmp_path / "small" / "store")
    saved.upkeep.restore(tmp_path / "backup", own=True)
    assert saved.upkeep.audit().ok
    assert len(saved.adapters.list()) == 1


@pytest.mark.parametrize("step", ["fill", "make_ready"])
def test_an_interrupted_restore_resumes(
    saved: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with open_registry(tmp_path / "new") as new:
        new.init()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(import_module("fusery.registry.exchange.filling"), step, interrupt)
            new.upkeep.restore(tmp_path / "backup", own=True)
        for _ in range(2):
            new.upkeep.restore(tmp_path / "backup", own=True)
        assert new.upkeep.audit().ok
        assert new.adapters.list() == saved.adapters.list()


@pytest.mark.parametrize("change", ["rows", "store"])
def test_a_restore_leaves_an_edited_registry_and_a_strange_store_alone(
    saved: Registry, tmp_path: Path, change: str
) -> None:
    with open_registry(tmp_path / "new") as new:
        new.init()
        if change == "rows":
            new.upkeep.restore(tmp_path / "backup", own=True)
            with new.workspace.database.write() as session:
                session.execute(update(tables.AdapterRow).values(note="edited"))
        else:
            (tmp_path / "strange").write_bytes(b"bytes of another command")
            new.workspace.store.put_file(tmp_path / "strange")
        with pytest.raises(NotEmptyError):
            new.upkeep.restore(tmp_path / "backup", own=True)


def test_an_empty_registry_is_filled_and_one_with_something_in_it_left_alone(
    saved: Registry, tmp_path: Path
) -> None:
    saved.aliases.set("prod", "course_rec@1")
    before = saved.upkeep.log()
    for own, error in ((True, NotEmptyError), (False, BadInputError)):
        with pytest.raises(error):
            saved.upkeep.restore(tmp_path / "backup", own=own)
    assert saved.upkeep.log() == before
    with open_registry(tmp_path / "new") as new:
        with pytest.raises(BackupError):  # there is none
            new.upkeep.restore(tmp_path / "nothing", own=True)
        new.init()
        store = new.workspace.store.identify()
        saved.upkeep.backup("memory://backup-test")
        new.upkeep.restore("memory://backup-test", own=True)
        assert new.workspace.store.identify() == store
        assert new.upkeep.audit().ok
        assert new.adapters.list() == saved.adapters.list()


def test_a_base_that_is_kept_by_reference_is_added_before_a_copy(tiny_base: Path, tmp_path: Path) -> None:
    with open_registry(tmp_path / "theirs") as theirs:
        theirs.init()
        theirs.bases.add(tiny_base, name="tiny", reference=True)
        adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_base, seed=1)
        theirs.adapters.register(adapter, base="tiny", task="course_rec", date="20260115")
        theirs.upkeep.backup(tmp_path / "backup")
    with open_registry(tmp_path / "ours") as ours:
        with pytest.raises(BadInputError):
            ours.exchange.pull("*", tmp_path / "backup")
        ours.bases.add(tiny_base, name="tiny")
        assert [each.state for each in ours.exchange.pull("*", tmp_path / "backup").items_] == [
            "present",
            "copied",
        ]
        assert ours.upkeep.audit().ok


def test_only_new_blobs_are_copied_and_old_rows_removed(
    small: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    first = small.upkeep.backup(tmp_path / "backup")
    adapter = tiny_models.make_adapter(tmp_path / "second", tiny_base, seed=2)
    small.adapters.register(adapter, base="tiny", task="course_rec", date="20260116")
    part = tmp_path / "backup" / "tmp" / f"{'0' * 32}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"left by a backup that was killed")
    second = small.upkeep.backup(tmp_path / "backup")
    assert not part.exists()
    third = small.upkeep.backup(tmp_path / "backup")
    assert first.copied == first.blobs
    assert second.copied.count == 1
    assert (third.copied.count, third.copied.bytes) == (0, 0)
    store = LocalStore(tmp_path / "backup")
    with small.workspace.database.read() as session:
        blobs = set(session.scalars(select(tables.BlobRow.digest)))
    members = {member.sha256 for member in contents(tmp_path / "backup").members}
    assert {blob.digest for blob in store.blobs()} == blobs | members
    with open_registry(tmp_path / "restored") as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert len(restored.adapters.list()) == 2
    # A damaged blob of the backup is replaced on request.
    digest = next(iter(small.workspace.store.blobs())).digest
    flip(blob_path(tmp_path / "backup", digest))
    assert small.upkeep.backup(tmp_path / "backup", verify=True).copied.count == 1
    store.verify(digest, store.size(digest) or 0)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-10])


def edit(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"course_rec", b"course_rex"))


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("rows/adapter.ndjson", change) for change in (truncate, edit, flip, Path.unlink)),
        *(("package.json", change) for change in (truncate, edit, Path.unlink)),
        *(("blob", change) for change in (truncate, flip, Path.unlink)),
    ],
)
def test_a_changed_file_is_named_and_nothing_is_restored(
    saved: Registry, tmp_path: Path, name: str, change: Change
) -> None:
    digest = next(iter(saved.workspace.store.blobs())).digest
    backup = tmp_path / "backup"
    others = {"package.json": backup / name, "blob": blob_path(backup, digest)}
    path = others.get(name) or member_path(backup, name)
    change(path)
    if change is edit and name == "package.json":
        path.write_bytes(path.read_bytes().replace(b'"tester"', b'"someone"'))
    with open_registry(tmp_path / "restored") as restored:
        with pytest.raises(
            BackupError, match="backup" if name == "package.json" else digest if name == "blob" else name
        ):
            restored.upkeep.restore(backup, own=True)
        with pytest.raises(SchemaError):
            restored.adapters.list()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rows/manifest_file.ndjson", {"path": "../../../etc/cron.d/evil"}),
        ("rows/event.ndjson", {"actor": "somebody else"}),
        ("rows/event.ndjson", None),
        ("rows/adapter.ndjson", {"note": "a\0b"}),
        ("rows/adapter.ndjson", {"base_id": 4711}),
        ("rows/blob.ndjson", {"state": "absent"}),
        ("package.json", {"schema": "9999"}),
    ],
)
def test_a_forged_backup_is_refused(
    saved: Registry, tmp_path: Path, name: str, changes: dict[str, Any] | None
) -> None:
    """Rows changed, or without the last one, by somebody who knows how to sign."""
    if name == "package.json":
        change_contents(tmp_path / "backup", lambda document: document.update(changes or {}))
    else:
        change_lines(
            tmp_path / "backup", name, lambda rows: rows[-1].update(changes) if changes else rows.pop()
        )
    with open_registry(tmp_path / "restored") as restored:
        with pytest.raises(FuseryError):
            restored.upkeep.restore(tmp_path / "backup", own=True)
        with pytest.raises(SchemaError):
            restored.adapters.list()


def test_a_damaged_blob_of_the_registry_is_not_backed_up(saved: Registry, tmp_path: Path) -> None:
    before = (tmp_path / "backup" / "package.json").read_bytes()
    digest = next(iter(saved.workspace.store.blobs())).digest
    path = saved.workspace.store.local_path(digest)
    assert path is not None
    flip(path)
    with pytest.raises(BlobCorruptError, match=digest):
        saved.upkeep.backup(tmp_path / "other")
    assert not (tmp_path / "other" / "package.json").exists()
    assert (tmp_path / "backup" / "package.json").read_bytes() == before


def test_places_of_other_registries_and_the_own_store_are_refused(small: Registry, tmp_path: Path) -> None:
    with open_registry(tmp_path / "other") as other:
        other.init()
        other.upkeep.backup(tmp_path / "backup")
    with pytest.raises(StoreMismatchError):
        small.upkeep.backup(tmp_path / "backup")
    for place in (tmp_path / "small" / "store", tmp_path / "small" / "store" / "backup", tmp_path / "small"):
        with pytest.raises(BadInputError):
            small.upkeep.backup(place)
