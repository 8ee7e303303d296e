"""vLLM and SGLang as they answer: keys, bases, refusals, answers that are lost, and files that have to stay."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import lora_server
import pytest
import tiny_models

from fusery.integrations.sync import servers
from fusery.integrations.sync import sync as module
from fusery.integrations.sync.plan import SyncRequest
from fusery.registry import Registry
from fusery.registry.errors import BadInputError, ServerRefusedError, ServerUnavailableError

from .conftest import V1, V2, Somewhere, acts, names_in, running, somewhere

pytestmark = pytest.mark.timing
vllm_only = pytest.mark.parametrize("place", ["vllm"], indirect=True)


def sync(registry: Registry, to: str, *names: str, **options: Any) -> dict[str, str]:
    request = SyncRequest(to, list(names or (V1,)), **options)
    return acts(module.sync(registry, request))


@pytest.fixture(params=["vllm", "sglang"])
def place(
    request: pytest.FixtureRequest, stocked: Registry, tiny_base: Path, tmp_path: Path
) -> Iterator[Somewhere]:
    with ExitStack() as opened:
        yield somewhere(request.param, stocked, tiny_base, tmp_path, opened)


def test_a_key_goes_to_the_server_and_nowhere_else(
    stocked: Registry, place: Somewhere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.server.key = "s3cr3t"
    with pytest.raises(ServerRefusedError) as caught:
        place.sync(stocked, "course_rec@1")
    assert caught.value.hint is not None and "FUSERY_SYNC_KEY" in caught.value.hint
    monkeypatch.setenv("FUSERY_SYNC_KEY", "wr0ng")
    with pytest.raises(ServerRefusedError):
        place.sync(stocked, "course_rec@1")
    monkeypatch.delenv("FUSERY_SYNC_KEY")
    (tmp_path / "key").write_text("s3cr3t\n")
    monkeypatch.setenv("FUSERY_SYNC_KEY_FILE", str(tmp_path / "key"))
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "load"}
    rest = [path.read_bytes() for path in stocked.workspace.settings.home.rglob("*") if path.is_file()]
    assert not any(b"s3cr3t" in data for data in rest)
    # A server may say it again where something of it would be printed.
    place.server.base = "s3cr3t"
    with pytest.raises(ServerRefusedError) as said:
        place.sync(stocked, "course_rec@1")
    assert "s3cr3t" not in str(said.value) + str(said.value.hint)
    with pytest.raises(BadInputError):  # without TLS
        sync(stocked, "vllm=http://10.1.2.3:8000")


def test_the_base_of_a_server(stocked: Registry, tiny_base: Path, tmp_path: Path) -> None:
    with lora_server.serving("vllm", "qwen", root="/models/qwen") as (server, url):
        with pytest.raises(BadInputError) as caught:
            sync(stocked, f"vllm={url}")
        assert caught.value.hint == "if that is the same model: --base-name qwen"
        assert server.loaded == {}
        assert sync(stocked, f"vllm={url}", base_name="qwen") == {"v1": "load"}
    # It may be called by the folder that it was added from.
    for kind in ("vllm", "sglang"):
        with lora_server.serving(kind, str(tiny_base), root=str(tiny_base)) as (_, url):  # type: ignore[arg-type]
            assert sync(stocked, f"{kind}={url}") == {"v1": "load"}


@vllm_only
def test_two_bases_on_one_server_are_refused(stocked: Registry, place: Somewhere, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", seed=5)
    tiny_models.make_adapter(tmp_path / "third", other, seed=3)
    stocked.bases.add(other, name="other")
    stocked.adapters.register(tmp_path / "third", base="other", task="rerank")
    with pytest.raises(BadInputError):
        place.sync(stocked, "course_rec@1", "rerank@1")
    assert place.names() == set()


def test_what_the_server_refuses(stocked: Registry, place: Somewhere) -> None:
    place.server.max_rank = 4  # version 1 has 8
    place.sync(stocked, "course_rec@2")
    found = place.sync(stocked, "course_rec@1")
    assert acts(found) == {"v1": "not load", "v2": "not unload"}
    assert "max_lora_rank 4" in str(found.steps[0].reason)
    assert (place.names(), running(stocked)) == ({V2}, [V2])
    place.server.max_rank = 64
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "load", "v2": "unload"}


def test_an_answer_that_is_lost(stocked: Registry, place: Somewhere) -> None:
    for wanted, done in (
        (("course_rec@1",), {"v1": "load"}),
        (("course_rec@2",), {"v2": "load", "v1": "unload"}),
        ((), {"v2": "unload"}),
    ):
        place.server.lost = 1
        assert acts(place.sync(stocked, *wanted, nothing=not wanted)) == done
    assert (place.names(), running(stocked)) == (set(), [])
    # A gateway that gives up while the server goes on: the next sync finds it, and can take it away.
    place.server.lost = 100
    found = place.sync(stocked, "course_rec@1")
    assert not found.ok or found.steps[0].done
    place.server.lost = 0
    assert acts(place.sync(stocked, "course_rec@1")) in ({"v1": "keep"}, {"v1": "record"})
    assert running(stocked) == [V1]
    assert acts(place.sync(stocked, nothing=True)) == {"v1": "unload"}


def test_a_server_that_is_away_and_what_is_none(
    stocked: Registry, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lora_server.serving("vllm", "tiny") as (server, url):
        request = SyncRequest(f"vllm={url}", ["course_rec@1"])
        module.sync(stocked, request)
        with pytest.raises(ServerRefusedError):
            sync(stocked, f"fusery={url}")
        for answer in ("[]", "{}", '{"data": [5]}', '{"data": []}', "<html>", '{"data": [{"id": 5}]}'):
            monkeypatch.setattr(server, "cards", lambda answer=answer: answer)
            with pytest.raises(ServerRefusedError):
                module.sync(stocked, request)
    for dry_run in (False, True):
        with pytest.raises(ServerUnavailableError):
            module.sync(stocked, request, dry_run=dry_run)
    # Nobody knows better.
    assert running(stocked) == [V1]
    with ExitStack() as opened:
        ours = somewhere("fusery", stocked, tiny_base, tmp_path, opened)
        with pytest.raises(ServerRefusedError):
            sync(stocked, f"vllm={ours.to.partition('=')[2]}")


def test_files_stay_for_a_while(stocked: Registry, place: Somewhere) -> None:
    """vLLM reads an adapter again in the middle of a step, also one that was just unloaded; without files it ends."""
    place.sync(stocked, "course_rec@1", "course_rec@2")
    place.sync(stocked, "course_rec@2")
    place.server.reread()
    assert names_in(place.folder) == ({V1, V2} if place.kind == "vllm" else {V2})
    place.sync(stocked, "course_rec@2")
    assert names_in(place.folder) == ({V1, V2} if place.kind == "vllm" else {V2})
    hour = time.time() - servers.KEPT - 1
    for name in names_in(place.folder):
        os.utime(place.folder / name, (hour, hour))
    place.sync(stocked, "course_rec@2")
    assert names_in(place.folder) == {V2}
    place.server.reread()


def test_damaged_files_are_brought_again(stocked: Registry, place: Somewhere) -> None:
    place.sync(stocked, "course_rec@1")
    weights = place.folder / V1 / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert acts(place.look(stocked, "course_rec@1")) == {"v1": "not replace"}
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "replace"}
    assert place.server.asked[-2:] == [f"unload {V1}", f"load {V1}"]
    data[-1] ^= 1
    assert weights.read_bytes() == data
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "keep"}


def test_a_folder_that_the_server_sees_elsewhere(stocked: Registry, tmp_path: Path) -> None:
    with lora_server.serving("vllm", "tiny") as (server, url):
        (tmp_path / "mounted").symlink_to(tmp_path / "here")
        seen = {"folder": tmp_path / "here", "seen_as": f"{tmp_path / 'mounted'}/"}
        assert sync(stocked, f"vllm={url}/v1/", **seen) == {"v1": "load"}
        [path] = server.loaded.values()
        assert Path(path).parent.parent == tmp_path / "mounted" and Path(path).name == V1
        assert sync(stocked, f"vllm={url}/v1/", **seen) == {"v1": "keep"}
        port = url.rpartition(":")[2]
        here = f"vllm=http://{socket.gethostname()}:{port}"
        assert [each.place for each in stocked.deployments.list()] == [here]
        with pytest.raises(BadInputError):
            sync(stocked, f"vllm={url}", seen_as="adapters")


def test_what_others_keep_in_the_folder_stays(stocked: Registry, tmp_path: Path) -> None:
    """A folder may be anybody's: what is brought has one of its own in it, for each server."""
    shared = tmp_path / "shared"
    for name in (V1, "theirs"):
        (shared / name).mkdir(parents=True)
        (shared / name / "adapter_config.json").write_text("{}")
        (shared / name / "my_only_copy.bin").write_text("x")
        os.utime(shared / name, (0, 0))
    with (
        lora_server.serving("vllm", "tiny") as (one, first),
        lora_server.serving("sglang", "tiny") as (two, second),
    ):
        for to in (f"vllm={first}", f"sglang={second}"):
            sync(stocked, to, V1, V2, folder=shared)
        sync(stocked, f"sglang={second}", folder=shared)
        assert (set(one.loaded), set(two.loaded)) == ({V1, V2}, {V1})
        one.reread()
        two.reread()
    for name in (V1, "theirs"):
        assert names_in(shared / name) == {"adapter_config.json", "my_only_copy.bin"}


def test_host_is_part_of_a_place(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with one registry, each with a server beside it: each has what it was brought, and a yank reaches both."""
    with lora_server.serving("vllm", "tiny") as (_, url):
        port = url.rpartition(":")[2]
        for host in ("gpu-1", "gpu-2"):
            monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
            for name in ("127.0.0.1", "localhost"):
                request = SyncRequest(f"vllm=http://{name}:{port}", ["course_rec@1"])
                found = module.sync(stocked, request, dry_run=True)
                assert found.place == f"vllm=http://{host}:{port}"
            folder = SyncRequest(str(tmp_path / "loras"), ["course_rec@1"])
            assert module.sync(stocked, folder, dry_run=True).place == f"{host}:{tmp_path / 'loras'}"
        named = SyncRequest(f"vllm={url}", ["course_rec@1"], place="prod-eu")
        assert module.sync(stocked, named).place == "prod-eu"
        assert [each.place for each in stocked.deployments.list()] == ["prod-eu"]


@vllm_only
def test_another_folder_changes_nothing(stocked: Registry, place: Somewhere, tmp_path: Path) -> None:
    place.sync(stocked, "course_rec@1", "course_rec@2")
    other = SyncRequest(place.to, ["course_rec@1"], folder=tmp_path / "elsewhere")
    found = module.sync(stocked, other)
    assert acts(found) == {"v1": "not blocked", "v2": "not blocked"}
    assert (place.names(), running(stocked)) == ({V1, V2}, [V1, V2])
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "keep", "v2": "unload"}


@vllm_only
def test_yanked_adapters_go_whatever_the_base_is_called(stocked: Registry, place: Somewhere) -> None:
    place.sync(stocked, "course_rec@1", "course_rec@2")
    stocked.adapters.yank("course_rec@2", reason="bad data")
    place.server.base = place.server.root = "another"
    with pytest.raises(BadInputError):
        place.sync(stocked, "course_rec@1")
    assert (place.names(), running(stocked)) == ({V1}, [V1])


def test_an_answer_that_comes_byte_by_byte(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never comes to an end does not hold the place for ever."""
    monkeypatch.setattr(servers, "_LISTING", 0.5)
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.1):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        with pytest.raises(ServerUnavailableError):
            sync(stocked, f"vllm=http://127.0.0.1:{listener.getsockname()[1]}")
        ended.set()
