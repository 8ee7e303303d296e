"""A workspace before and after its registry is made."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.actors import LONGEST
from fusery.registry.database import events
from fusery.registry.errors import BadInputError, SchemaError
from fusery.registry.workspace.workspace import write_config
from fusery.storage.errors import StoreDeniedError, StoreMismatchError
from fusery.storage.locate import open_store


def test_a_registry_is_made_once(empty_url: str, tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "home", empty_url)
    is_file = empty_url.startswith("sqlite")
    assert workspace.is_unmade is is_file
    with pytest.raises(SchemaError):
        workspace.database.close()
    if not is_file:  # only `init` makes tables on a server
        with pytest.raises(SchemaError):
            workspace.ensure()
    assert workspace.ensure(explicit=True)
    assert not workspace.ensure(explicit=True)
    assert not workspace.is_unmade
    assert workspace.store.identify() == workspace.identity
    workspace.close()


def test_a_registry_on_a_server_is_never_unmade(tmp_path: Path) -> None:
    assert not open_workspace(tmp_path, "postgresql://nobody@127.0.0.1:1/x").is_unmade


def test_view_of_a_client_shares_the_parts(sqlite_registry: Registry) -> None:
    workspace = sqlite_registry.workspace
    view = workspace.acting("ann", role="publisher")
    assert (view.actor, view.role, view.authenticated) == ("ann", "publisher", True)
    assert not workspace.authenticated and not workspace.role and workspace.actor != "ann"
    assert (view.store, view.cache, view.verified_files) == (
        workspace.store, workspace.cache, workspace.verified_files,
    )  # fmt: skip
    assert (view.database.actor, view.identity) == ("ann", workspace.identity)
    assert not view.ensure(explicit=True)
    database = workspace.database
    view.close()
    assert workspace.database is database and workspace.identity
    workspace.acting("a" * LONGEST)
    for name in ("", " ", "a" * (LONGEST + 1), "a\0b"):
        with pytest.raises(BadInputError):
            workspace.acting(name)


def test_home_is_made_with_its_folders_and_one_entry_in_the_log(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "home")
    workspace.make_embedded()
    first = workspace.identity
    assert workspace.settings.home.is_dir() and workspace.settings.cache.is_dir()
    with workspace.database.read() as session:
        [entry] = events.history(session, action="registry.made")
        assert (entry.subject_kind, entry.subject) == ("registry", first)
    store, database = workspace.store, workspace.database
    workspace.make_embedded()
    assert workspace.database is database
    path = write_config(workspace.settings)
    path.write_text(path.read_text() + "\n")
    before = path.read_bytes()
    assert (write_config(workspace.settings), path.read_bytes()) == (path, before)
    [need] = workspace.notes
    assert need.folder == workspace.embedded_path.parent if workspace.embedded_path else False
    with database.write():
        assert workspace.notes[0].taken > 0  # the log of an SQLite file
    workspace.close()
    assert workspace.store is not store and workspace.database is not database
    workspace.close()


def test_database_without_tables_is_refused(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "home")
    workspace.settings.home.mkdir()
    (tmp_path / "home" / "fusery.db").touch()
    with pytest.raises(SchemaError):
        _ = workspace.database


def test_store_of_another_registry_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        workspace = open_workspace(tmp_path / name)
        workspace.ensure()
        workspace.close()
    stores = [tmp_path / name / "store" for name in ("one", "other")]
    assert all(store.is_dir() for store in stores)
    shutil.rmtree(stores[0])
    stores[1].rename(stores[0])
    workspace = open_workspace(tmp_path / "one")
    for use in (lambda: workspace.store, workspace.ensure):
        with pytest.raises(StoreMismatchError):
            use()
    workspace.close()


def test_store_that_was_made_before_keeps_its_id(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "home")
    store = open_store(workspace.settings.store)
    store.initialise("made-before")
    assert workspace.ensure() and workspace.identity == "made-before"
    workspace.close()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreDeniedError) as caught:
        open_workspace(tmp_path / "file" / "home").ensure()
    assert os.strerror(errno.ENOTDIR) in caught.value.message


def test_scratch_lies_in_the_cache_or_in_the_system_s_folder(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "home")
    workspace.ensure()
    with workspace.scratch() as folder:
        assert folder.is_dir() and folder.is_relative_to(workspace.settings.cache.resolve())
    assert not folder.exists()
    shutil.rmtree(workspace.settings.cache)
    workspace.settings.cache.touch()
    with workspace.scratch() as folder:
        assert folder.is_dir()
    assert not folder.exists()
    workspace.close()
