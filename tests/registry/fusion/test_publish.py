"""Published fused models: two machines with one database and one store; cache, store, rebuild, in that order."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from store_shelf import open_workspace

from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse_inputs import InputFiles
from fusery.storage.digest import Digest
from fusery.storage.errors import StoreUnavailableError


@dataclass(slots=True)
class Team:
    one: Registry
    two: Registry
    computed: list[str] = field(default_factory=list)


def blob_path(registry: Registry, digest: str) -> Path:
    path = registry.workspace.store.local_path(Digest(digest))
    assert path is not None
    return path


def weights(view: Any) -> dict[str, Any]:
    return next(file for file in view["files"] if file["path"].endswith(".safetensors"))


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    runs: list[str] = []
    honest = InputFiles.compute

    def counting(self: InputFiles, recipe: Any, key: Digest, *rest: Any, **options: Any) -> Any:
        runs.append(key)
        return honest(self, recipe, key, *rest, **options)

    monkeypatch.setattr(InputFiles, "compute", counting)
    return runs


@pytest.fixture
def team(
    database_url: str, tmp_path: Path, tiny_base: Path, make_adapter: Callable[..., Path], computed: list[str]
) -> Iterator[Team]:
    folder = shutil.copytree(tiny_base, tmp_path / "only-there")
    store = str(tmp_path / "shared")
    with (
        Registry(open_workspace(tmp_path / "one", database_url, store)) as one,
        Registry(open_workspace(tmp_path / "two", database_url, store)) as two,
    ):
        one.init()
        one.bases.add(folder, name="tiny", reference=True)
        one.adapters.register(make_adapter(), base="tiny", task="course_rec")
        yield Team(one, two, computed)


def test_by_default_only_the_record_is_shared(team: Team) -> None:
    first, again = (registry.fused.fuse("course_rec@1") for registry in (team.one, team.two))
    assert (first.source, again.source, len(team.computed)) == ("computed", "computed", 2)
    assert (first["published"], again["published"]) == (False, False)
    assert first["digest"] == again["digest"]


def test_published_in_full_it_is_fetched_and_not_computed(team: Team, tmp_path: Path) -> None:
    first = team.one.fused.fuse("course_rec@1", publish="full")
    shutil.rmtree(tmp_path / "only-there")  # the second machine has nothing to compute from
    told: list[tuple[int, int]] = []
    fetched = team.two.fused.fuse(
        "course_rec@1", reporter=Reporter(progress=lambda done, total: told.append((done, total)))
    )
    assert (first.source, fetched.source, len(team.computed)) == ("computed", "store", 1)
    assert told[-1] == (first["bytes"], first["bytes"])
    for file in first["files"]:
        assert (fetched.path / file["path"]).read_bytes() == (first.path / file["path"]).read_bytes()
        assert not (fetched.path / file["path"]).stat().st_mode & 0o222
    assert team.two.fused.fuse("course_rec@1").source == "cache"
    team.two.bundles.materialize("course_rec@1", tmp_path / "bundle")
    assert len(team.computed) == 1


def test_it_is_explained_how_a_published_model_would_be_had(team: Team) -> None:
    made = team.one.fused.fuse("course_rec@1", publish="full")
    key = made["key"]
    [here], [there] = (registry.fused.explain(key)["models"] for registry in (team.one, team.two))
    assert (here["status"], here["published"]) == ("hit", True)
    assert (there["status"], there["published"], there["missing"]) == ("miss", True, [])
    assert "fetched" in there["reason"] and "made again" not in there["reason"]
    blob_path(team.one, weights(made)["sha256"]).unlink()
    [broken] = team.two.fused.explain(key)["models"]
    assert (broken["published"], "not whole in the store" in broken["reason"]) == (True, True)
    assert "made again" in broken["reason"]


def test_what_was_made_before_is_published_when_it_is_asked_for(team: Team) -> None:
    with pytest.raises(BadInputError):
        team.one.fused.fuse("course_rec@1", publish="half")
    assert not team.one.fused.fuse("course_rec@1")["published"]
    team.one.workspace.settings = replace(team.one.workspace.settings, publish="full")
    shared = team.one.fused.fuse("course_rec@1")
    assert (shared.source, shared["published"]) == ("cache", True)
    team.one.upkeep.gc(grace=0.0)
    assert all(blob_path(team.two, file["sha256"]).exists() for file in shared["files"])
    assert team.two.fused.fuse("course_rec@1").source == "store"
    actions = [event["action"] for event in team.two.upkeep.log(reference=shared["key"])]
    assert actions == ["fused.made", "fused.published"]
    assert len(team.computed) == 1


def test_damaged_or_missing_files_are_made_again_and_mended(team: Team) -> None:
    made = team.one.fused.fuse("course_rec@1", publish="full")
    path = blob_path(team.one, weights(made)["sha256"])
    for harm in (tamper, Path.unlink):
        harm(path)
        said: list[str] = []
        again = team.two.fused.fuse("course_rec@1", reporter=Reporter(said.append))
        assert again.source == "computed"
        assert any("cannot be used" in line for line in said)
        for file in made["files"]:
            assert (again.path / file["path"]).read_bytes() == (made.path / file["path"]).read_bytes()
        assert team.two.upkeep.audit().ok
        shutil.rmtree(team.two.workspace.cache.root / "fused")
    assert len(team.computed) == 3
    assert team.two.fused.fuse("course_rec@1").source == "store"


def test_failed_publishing_keeps_the_model(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:

        def fails(*_: Any, **__: Any) -> None:
            raise StoreUnavailableError("the store is away")

        patched.setattr(type(team.one.workspace.store), "put_file", fails)
        with pytest.raises(StoreUnavailableError):
            team.one.fused.fuse("course_rec@1", publish="full")
    again = team.one.fused.fuse("course_rec@1", publish="full")
    assert (again.source, again["published"], len(team.computed)) == ("cache", True, 1)


@pytest.mark.timing
def test_a_killed_fetch_leaves_nothing_half_written(team: Team, tmp_path: Path, database_url: str) -> None:
    team.one.fused.fuse("course_rec@1", publish="full")
    killed = "FuseRequest(), reporter=Reporter(progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    done = elsewhere(tmp_path, database_url, f'fuse(two, "course_rec@1", {killed})')
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert team.two.workspace.cache.entries() == []
    assert team.two.fused.fuse("course_rec@1").source == "store"
    assert list((team.two.workspace.cache.root / "tmp").iterdir()) == []
    assert len(team.computed) == 1


def elsewhere(folder: Path, database_url: str, code: str) -> subprocess.CompletedProcess[str]:
    script = f"""
import json, os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from store_shelf import open_workspace
from fusery.registry import FuseRequest, Registry, Reporter
from fusery.registry.fusion.fuse import fuse
two = open_workspace(Path({str(folder / "two")!r}), {database_url!r}, {str(folder / "shared")!r})
{code}
"""
    command = [sys.executable, "-P", "-c", script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
