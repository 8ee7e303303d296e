"""What a client of a server's registry may record there, and what a server can make a client believe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from page_server import pages_of
from tiny_models import make_base

from fusery.registry import BadInputError, FuseRequest, Registry
from fusery.registry.errors import RoleError
from fusery.registry.exchange import registries
from fusery.registry.records.trust import Role
from fusery.registry.remote import blobs
from fusery.registry.remote.server import Server
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import Reporter
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing

KEEP = FuseRequest("dequantize")


@pytest.fixture
def team(stocked: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    with pages_of(stocked, TokenAuth(stocked, Proxies())) as url:
        yield url


@contextmanager
def client(registry: Registry, url: str, name: str, role: Role) -> Iterator[Registry]:
    with Registry.open(url, token=registry.tokens.create(name, role).secret) as found:
        yield found


def test_another_registry_with_our_id_is_refused(stocked: Registry, team: str, tmp_path: Path) -> None:
    stocked.fused.fuse("course_rec@1", KEEP)
    with client(stocked, team, "rita", "reader") as remote, Registry.open(tmp_path / "mine") as mine:
        mine.init()
        token = stocked.tokens.create("tom", "reader").secret
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FUSERY_TOKEN", token)
            with pytest.raises(BadInputError):
                stocked.exchange.pull("course_rec@1", team, fused=True)
            assert mine.exchange.pull("course_rec@1", team, fused=True).copied > 0
        assert {each.key for each in stocked.fused.list()} != {each.key for each in mine.fused.list()}
        assert remote.tokens.own().role == "reader"


def test_a_reader_computes_and_records_nothing(stocked: Registry, team: str) -> None:
    heard: list[str] = []
    with client(stocked, team, "rita", "reader") as remote:
        made = remote.fused.fuse("course_rec@1", KEEP, reporter=Reporter(heard.append))
        assert made.path.is_dir()
        assert sum("not recorded" in each for each in heard) == 1
        assert remote.adapters.folder("course_rec@2").is_dir()
        with pytest.raises(RoleError):
            remote.bases.add(make_base(team_folder(made.path) / "other", layers=1, seed=5), name="other")
        assert remote.adapters.folder("course_rec@1").is_dir()
        assert sum("not recorded" in each for each in heard) == 1
    assert stocked.fused.list() == []
    assert [base.name for base in stocked.bases.list()] == ["tiny"]


def test_refused_records_are_sent_with_another_token(stocked: Registry, team: str) -> None:
    refused: list[str] = []
    for name in ("rita", "rob"):
        with client(stocked, team, name, "reader") as remote:
            made = remote.fused.fuse("course_rec@1", KEEP, reporter=Reporter(refused.append))
        assert stocked.fused.list() == []
    assert sum("not recorded" in each for each in refused) == 2
    with client(stocked, team, "anna", "approver") as remote:
        assert remote.fused.fuse("course_rec@1", KEEP).digest == made.digest
    with client(stocked, team, "amir", "approver") as remote:
        remote.adapters.folder("course_rec@1")
    made_of = [entry for entry in stocked.upkeep.log() if entry.action.startswith("fused.")]
    assert [(entry.actor, entry.action) for entry in made_of] == [("anna", "fused.received")]
    assert [each.digest for each in stocked.fused.list()] == [made.digest]


def team_folder(path: Path) -> Path:
    """Return a folder beside the local copy."""
    return next(each for each in path.parents if each.name == "cached").parent


def test_records_carry_the_name_of_the_token(
    stocked: Registry, team: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSERY_USER", "ceo")
    with client(stocked, team, "paul", "publisher") as remote:
        remote.bases.add(make_base(tmp_path / "other", layers=1, seed=5), name="other")
        remote.fused.fuse("course_rec@1", KEEP)
    made = [entry for entry in stocked.upkeep.log(limit=3) if entry.action != "token.created"]
    assert {entry.actor for entry in made} == {"paul"}
    assert stocked.bases.show("other").created_by == "paul"
    [claimed] = stocked.fused.list()
    assert claimed.foreign is not None
    with client(stocked, team, "anna", "approver") as remote:
        remote.fused.fuse("course_rec@2", KEEP)
    own = [each for each in stocked.fused.list() if each.foreign is None]
    assert len(own) == 1


def test_what_is_identified_is_recorded_by_nobody(stocked: Registry, team: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    stocked.bundles.materialize("course_rec@1", folder, target="adapters")
    before = stocked.upkeep.log(limit=1)
    with client(stocked, team, "anna", "approver") as remote:
        assert remote.provenance.identify(folder).to_dict() == stocked.provenance.identify(folder).to_dict()
        remote.adapters.folder("course_rec@1")
    since = stocked.upkeep.log(after=before[0].seq)
    assert [entry.action for entry in since if entry.actor != "tester"] == []
    assert not any(entry.action.startswith("bundle") for entry in since)


def test_a_base_is_fetched_once(stocked: Registry, team: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = list[str]()

    def download(server: Server, entry: FileEntry, *rest: Any) -> None:
        fetched.append(entry.path)
        blobs.download(server, entry, *rest)

    monkeypatch.setattr(registries, "download", download)
    with client(stocked, team, "anna", "approver") as remote:
        remote.fused.fuse("course_rec@1", KEEP)
        assert "model.safetensors" in fetched
        fetched.clear()
        remote.fused.fuse("course_rec@2", KEEP)
        files = {file.path for file in stocked.adapters.show("course_rec@2").files}
        assert "adapters.safetensors" in fetched and set(fetched) <= files
        fetched.clear()
        remote.fused.fuse("course_rec@2", KEEP)
        assert fetched == []
