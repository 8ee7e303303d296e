"""Room for copies: where it is, and that nothing of it stays when its user is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.workspace.workspace import Workspace

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_where_the_cache_may_not_be_written_the_system_s_own_place_is_taken(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stocked.workspace.scratch() as folder:
        assert folder.is_relative_to(stocked.workspace.settings.cache.resolve())
    assert not folder.exists()
    (tmp_path / "file").write_text("no folder")
    elsewhere = replace(stocked.workspace.settings, cache_dir=tmp_path / "file" / "cache")
    with Workspace(elsewhere).scratch() as folder:
        assert not folder.is_relative_to(tmp_path / "file")
        (folder / "a").write_text("a")
    assert not folder.exists()
