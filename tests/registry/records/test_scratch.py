"""Room for copies: where it is, and that nothing of it stays when its user is killed.  For real, with a store that is elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import s3_server
import tiny_models

from fusery.registry import Registry
from fusery.registry.records.scratch import scratch_folder
from fusery.registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Team:
    """A registry whose store is a bucket, and the command line on it."""

    folder: Path
    variables: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-c", "from fusery.cli.main import main; main()", *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> str:
        """Run one to its end."""
        process = self.start(*arguments)
        said = process.communicate(timeout=300)[0].decode()
        assert process.returncode == 0, said
        return said

    def prepare(self, *commands: tuple[str, ...]) -> None:
        """Run some in one process: it is not these that are looked at."""
        code = "import json, sys; from fusery.cli.main import run; sys.exit(any(map(run, json.loads(sys.argv[1]))))"
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(commands)],
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def copies(self) -> dict[Path, int]:
        """Return the copies made for a while, in the cache and where the system has its own, with their sizes.

        A command may be at work: a file that is gone before it is looked at is none.
        """
        found = {}
        for folder in (self.folder / "home" / "cache" / "tmp", self.folder / "temporary"):
            for path in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        found[path] = status.st_size
        return found


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    """A base and an adapter in a bucket."""
    binary = s3_server.find_server()
    if binary is None:
        pytest.skip("SeaweedFS is not installed")
    (tmp_path / "temporary").mkdir()
    (tmp_path / "server").mkdir()
    with s3_server.running_server(binary, tmp_path / "server") as server:
        variables = os.environ | {
            "FUSERY_HOME": str(tmp_path / "home"),
            "FUSERY_STORE_URL": f"s3://{s3_server.BUCKET}/scratch",
            "FUSERY_STORE_OPTIONS": json.dumps(server.options()),
            "TMPDIR": str(tmp_path / "temporary"),
        }
        made = Team(tmp_path, variables)
        base = tiny_models.make_base(tmp_path / "base", layers=2)
        adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
        words = ("--base", "tiny", "--task", "course_rec", "--date", "20260101")
        made.prepare(
            ("init",),
            ("base", "add", str(base), "--name", "tiny"),
            ("register", str(adapter), *words),
        )
        yield made


@pytest.mark.slow
def test_a_killed_probe_leaves_nothing_that_the_next_one_does_not_remove(team: Team) -> None:
    weights = (team.folder / "base" / "model.safetensors").stat().st_size
    process = team.start("probe", "course_rec@1", "--against", "base")
    try:
        end = time.monotonic() + 120
        while weights not in team.copies().values():
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.kill()  # SIGKILL
        process.communicate()
    assert weights in team.copies().values()
    team.run("probe", "course_rec@1", "--against", "base")
    assert team.copies() == {}


def test_where_the_cache_may_not_be_written_the_system_s_own_place_is_taken(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch_folder(stocked.workspace) as folder:
        assert folder.is_relative_to(stocked.workspace.settings.cache.resolve())
    assert not folder.exists()
    (tmp_path / "file").write_text("no folder")
    elsewhere = replace(stocked.workspace.settings, cache_dir=tmp_path / "file" / "cache")
    with scratch_folder(Workspace(elsewhere)) as folder:
        assert not folder.is_relative_to(tmp_path / "file")
        (folder / "a").write_text("a")
    assert not folder.exists()


def test_what_killed_processes_left_goes_when_the_cache_is_pruned(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    script = (
        "import os, signal; from fusery.storage.temporary import make_temporary;"
        "(make_temporary('form') / 'a').write_bytes(bytes(777)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(place)}, check=False
    )
    assert done.returncode == -9
    assert len(list(place.iterdir())) == 1
    assert stocked.cache.prune().swept_bytes == 777
    assert list(place.iterdir()) == []
