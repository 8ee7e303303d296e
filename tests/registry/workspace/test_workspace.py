"""A workspace before and after its registry is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_shelf import open_workspace

from fusery.registry.errors import SchemaError


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
