"""Room for copies: where it is, and that nothing of it stays when its user is killed."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.mark.timing
def test_what_killed_processes_left_goes_when_the_cache_is_pruned(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    script = (
        "import os, signal; from fusery.storage.processes import make_temporary;"
        "(make_temporary('form') / 'a').write_bytes(bytes(777)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(place)}, check=False
    )
    assert done.returncode == -9
    assert len(list(place.iterdir())) == 1
    assert stocked.cache.prune().swept_bytes == 777
    assert list(place.iterdir()) == []
