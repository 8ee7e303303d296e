"""Adapters for servers that ask by name, from a registry's own parts and from its server: found, refused, fetched once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lora_server
import pytest
import tiny_models
from page_server import pages_of

from fusery.integrations.sync import resolving
from fusery.integrations.sync.resolving import (
    NotServedError,
    Resolver,
    max_lora_rank,
    resolver_of_environment,
)
from fusery.integrations.sync.sources import AdapterSource, SourceAdapter
from fusery.registry import Registry
from fusery.registry.errors import BadInputError, ServerUnavailableError
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.errors import FuseryError
from fusery.web.auth import Proxies, TokenAuth

from .conftest import V1, V2, running

pytestmark = pytest.mark.timing

FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(params=["own", "http"])
def source(
    request: pytest.FixtureRequest, stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AdapterSource]:
    if request.param == "own":
        own = AdapterSource(Registry(Workspace(stocked.workspace.settings)))
        yield own
        own.close()
        return
    monkeypatch.setenv("FUSERY_TOKEN", stocked.tokens.create("gpu-1", "publisher").secret)
    with pages_of(stocked, TokenAuth(stocked, Proxies())) as url:
        opened = AdapterSource(Registry.open(url))
        yield opened
        opened.close()


@pytest.fixture
def resolver(source: AdapterSource, tmp_path: Path) -> Resolver:
    return Resolver(source, tmp_path / "files", place="vllm@gpu-1:8000", via="vllm")


def test_a_name_and_a_version(resolver: Resolver, stocked: Registry) -> None:
    found = resolver.resolve(V1, "tiny")
    assert found is not None
    assert (found.name, found.modules) == (V1, 14)
    assert {path.name for path in found.folder.iterdir()} == FILES
    assert all(path.lstat().st_nlink == 1 for path in found.folder.iterdir())
    lora_server.require_loadable(found.folder, 8)
    config = json.loads((found.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert resolver.resolve("course_rec@1", "tiny") == found
    assert running(stocked) == [V1]
    [row] = stocked.deployments.list()
    assert (row.place, row.via) == ("vllm@gpu-1:8000", "vllm")


def test_what_is_refused(resolver: Resolver, stocked: Registry, tmp_path: Path, tiny_base: Path) -> None:
    stocked.aliases.set("prod", "course_rec@2")
    stocked.adapters.yank("course_rec@1", reason="bad data")
    tiny_models.make_adapter(tmp_path / "dora", tiny_base, seed=4, fine_tune_type="dora")
    stocked.adapters.register(tmp_path / "dora", base="tiny", task="rerank", date="20260301")
    for asked, base in (
        ("course_rec#prod", "tiny"),
        ("course_rec@latest", "tiny"),
        (V1, "tiny"),
        (V2, "Qwen/Qwen3-0.6B"),
        ("rerank@1", "tiny"),
    ):
        with pytest.raises(NotServedError):
            resolver.resolve(asked, base)
    assert running(stocked) == []
    assert not [path for path in (tmp_path / "files").glob("*") if path.name != ".locks"]


def test_adapter_above_the_limit_is_not_deployed(resolver: Resolver, stocked: Registry) -> None:
    for limits in ({"max_rank": 4}, {"max_bytes": 100}):
        with pytest.raises(NotServedError) as caught:
            resolver.resolve(V1, "tiny", **limits)
        assert running(stocked) == []
        logged = [
            each.detail["reason"] for each in stocked.upkeep.log() if each.action == "deployment.refused"
        ]
        assert logged[-1] in caught.value.message
    found = resolver.resolve(V1, "tiny", max_rank=8, max_bytes=1 << 30)
    assert found is not None and found.rank == 8
    assert running(stocked) == [V1]


def test_the_largest_rank_comes_from_the_servers_arguments() -> None:
    serve = "vllm serve tiny --enable-lora"
    for arguments, rank in (
        (serve, 16),
        (f"{serve} --max-lora-rank 64", 64),
        (f"{serve} --max_lora_rank=8 --max-lora-rank=32", 32),
        (f"{serve} --config vllm.yaml", None),
        (f"{serve} --config=vllm.yaml --max-lora-rank 8", 8),
        (f"{serve} --max-lora-rank", None),
        ("python -c pass", None),
    ):
        assert max_lora_rank(arguments.split()) == rank


def test_what_is_refused_is_in_the_log_once_for_a_reason(
    resolver: Resolver, stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "_MOST_REFUSED", 2)
    stocked.adapters.yank("course_rec@1", reason="bad data")
    for _ in range(3):
        for asked in (V1, "course_rec@1"):
            with pytest.raises(NotServedError):
                resolver.resolve(asked, "tiny")
    with pytest.raises(NotServedError):
        resolver.resolve(V2, "Qwen/Qwen3-0.6B")
    with pytest.raises(NotServedError):  # too many are not recorded
        resolver.resolve(V2, "Qwen/Qwen3-1.7B")
    told = [each for each in stocked.upkeep.log() if each.action == "deployment.refused"]
    assert sorted((each.subject, each.detail["name"], each.detail["via"]) for each in told) == [
        ("vllm@gpu-1:8000", V1, "vllm"),
        ("vllm@gpu-1:8000", V2, "vllm"),
    ]
    assert f"{V1} was withdrawn" in [each.detail["reason"] for each in told]
    # It is found where somebody looks up what became of the adapter.
    assert "deployment.refused" in [each.action for each in stocked.upkeep.log(reference="course_rec@1")]


def test_what_is_no_adapter_is_somebody_else_s(resolver: Resolver, tmp_path: Path) -> None:
    for asked in (
        "gpt-4", "", "../../etc/passwd", "course_rec", "a" * 5000, "x_v1_20260101", "deadbeef", "tiny", "a\0b", "course_rec@1\n",
        " course_rec@1", "COURSE_REC@1", "course_rec@v1", f"{V1}\n", V1.upper(),
    ):  # fmt: skip
        assert resolver.resolve(asked, "tiny") is None
    assert not (tmp_path / "files").exists()


def test_base_by_files(source: AdapterSource, stocked: Registry, tiny_base: Path, tmp_path: Path) -> None:
    assert Resolver(source, tmp_path / "a").resolve(V1, str(tiny_base)) is not None
    shutil.copytree(tiny_base, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    with pytest.raises(NotServedError):
        Resolver(source, tmp_path / "a").resolve(V1, str(tmp_path / "other"))
    assert Resolver(source, tmp_path / "a", base="tiny").resolve(V1, str(tmp_path / "other")) is not None
    digest = stocked.bases.show("tiny").digest
    assert Resolver(source, tmp_path / "a", base=digest).resolve(V1, "anything") is not None
    with pytest.raises(NotServedError):
        Resolver(source, tmp_path / "a", base="other").resolve(V1, "anything")
    stocked.aliases.set("prod", "course_rec@2")
    found = Resolver(source, tmp_path / "b", aliases=True).resolve("course_rec#prod", "tiny")
    assert found is not None and found.name == V2


def test_files_that_are_damaged_are_fetched_again(resolver: Resolver) -> None:
    found = resolver.resolve(V1, "tiny")
    assert found is not None
    weights = found.folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    for damage in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        weights.write_bytes(damage)
        assert resolver.resolve(V1, "tiny") == found
        assert weights.read_bytes() == data
    (found.folder / "more").write_text("x")
    assert resolver.resolve(V1, "tiny") == found
    assert {path.name for path in found.folder.iterdir()} == FILES


class Counted(AdapterSource):
    fetched = 0

    def write(self, sourced: SourceAdapter, *arguments: object) -> int:
        Counted.fetched += 1
        return super().write(sourced, *arguments)  # type: ignore[arg-type]


def test_servers_fetch_once(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "fetched", 0)

    def run(_: int) -> object:
        with Registry(Workspace(stocked.workspace.settings)) as other:
            return Resolver(Counted(other), tmp_path / "files").resolve(V1, "tiny")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(run, range(6)))) == 1
    assert Counted.fetched == 1


def test_a_reader_s_token_serves_and_a_registry_that_is_away_is_said(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FUSERY_TOKEN", stocked.tokens.create("gpu-1", "reader").secret)
    own = Resolver(AdapterSource(stocked), tmp_path / "own").resolve(V1, "tiny")
    with pages_of(stocked, TokenAuth(stocked, Proxies())) as url:
        source = AdapterSource(Registry.open(url))
        found = Resolver(source, tmp_path / "files", place="vllm@gpu-1:8000").resolve(V1, "tiny")
    assert own is not None and found is not None
    for name in FILES:  # the same bytes in both ways
        assert (own.folder / name).read_bytes() == (found.folder / name).read_bytes()
    assert running(stocked) == []
    assert "is not on record" in caplog.text
    # It is neither a refusal nor nothing: the server says that it cannot tell.
    with pytest.raises(ServerUnavailableError):
        Resolver(source, tmp_path / "other").resolve(V1, "tiny")
    source.close()


def test_a_server_s_life_on_record(source: AdapterSource, stocked: Registry, tmp_path: Path) -> None:
    place = "vllm@gpu-1:8000"
    stocked.deployments.record("course_rec@2", "elsewhere")
    first = Resolver(source, tmp_path / "files", place=place, via="vllm")
    first.resolve(V1, "tiny")
    # It was killed; the next one on the same port knows that nothing of it runs.
    second = Resolver(source, tmp_path / "files", place=place, via="vllm")
    second.resolve(V2, "tiny")
    assert [each.name for each in stocked.deployments.list(place=place)] == [V2]
    second.close()
    assert stocked.deployments.list(place=place) == []
    assert [each.name for each in stocked.deployments.list()] == [V2]
    reasons = [each.detail["reason"] for each in stocked.upkeep.log() if each.action == "deployment.ended"]
    assert reasons == ["the server restarted", "the server ended"]


def test_deployments_of_others_stay(source: AdapterSource, stocked: Registry, tmp_path: Path) -> None:
    stocked.deployments.record("course_rec@2", "vllm@gpu-1:8000", note="by hand")
    server = Resolver(source, tmp_path / "files", place="vllm@gpu-1:8000", via="vllm")
    server.resolve(V1, "tiny")
    assert running(stocked) == [V1, V2]
    server.close()
    assert running(stocked) == [V2]


def test_failed_records_repeat(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = AdapterSource(stocked)
    place = "vllm@gpu-1:8000"
    stocked.deployments.record("course_rec@2", place, via="vllm")
    server = Resolver(source, tmp_path / "files", place=place, via="vllm")

    def away(*_: object, **__: object) -> None:
        raise ServerUnavailableError("the registry is away")

    stocked.adapters.yank("course_rec@2", reason="bad data")
    with monkeypatch.context() as patch:
        patch.setattr(stocked.deployments, "refuse", away)
        patch.setattr(stocked.deployments, "end", away)
        with pytest.raises(NotServedError):
            server.resolve(V2, "tiny")
        server.resolve(V1, "tiny")
    assert running(stocked) == [V1, V2]
    with pytest.raises(NotServedError):
        server.resolve(V2, "tiny")
    server.resolve(V1, "tiny")
    assert running(stocked) == [V1]
    assert [each.action for each in stocked.upkeep.log()].count("deployment.refused") == 1


def test_what_the_environment_says(tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        resolver_of_environment({"FUSERY_VLLM_ALIASES": "yes"}, "vllm", "here")
    with pytest.raises(FuseryError):
        resolver_of_environment({"FUSERY_SERVER": "https://fusery.example"}, "vllm", "here")


def test_an_earlier_life_is_ended_once_and_alone(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = AdapterSource(stocked)
    resolver = Resolver(source, tmp_path / "files", place="vllm@gpu-1:8000", via="vllm")
    locked: list[bool] = []
    monkeypatch.setattr(
        stocked.deployments, "end", lambda *_, **__: locked.append(resolver._beginning.locked())
    )
    for name in (V1, V2):
        resolver.resolve(name, "tiny")
    assert (locked, running(stocked)) == ([True], [V1, V2])
