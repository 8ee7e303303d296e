"""Clients of this version work with later servers: recorded requests are answered, and recorded answers are decoded.

`client/exchanges.json` has what this version's client sent, byte for byte, and what it was answered.  A later server may add
fields to its answers, and remove or rename none.  Only a release makes the recording anew:

    FUSERY_REMAKE=1 .venv/bin/python -P -m pytest tests/golden/test_client.py
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import tiny_models
from page_server import pages_of
from stub_server import raw_server

from fusery.registry import Registry
from fusery.registry.api.operation import Operation, operations_of
from fusery.registry.api.resource import Resource
from fusery.registry.records.transfer import Arrived
from fusery.registry.remote.blobs import download
from fusery.registry.remote.server import ServerError, failure
from fusery.registry.wire import decode, encode
from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import FileEntry
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing

RECORDING = Path(__file__).resolve().parent / "client" / "exchanges.json"
REMAKE = "FUSERY_REMAKE" in os.environ
FACTS: Any = {"base": "tiny", "task": "course_rec", "date": "20260115", "tags": {"stage": "pilot"}}
HOST, TOKEN = "HOST", "TOKEN"  # in recorded requests


@dataclass
class Relay:
    upstream: tuple[str, int]
    exchanges: list[tuple[bytearray, bytearray]] = field(default_factory=list)

    def relay(self, client: socket.socket) -> None:
        with socket.create_connection(self.upstream) as server:
            last, exchange = server, (bytearray(), bytearray())
            while True:
                for side in select.select([client, server], [], [])[0]:
                    data = side.recv(1 << 16)
                    if not data:
                        return
                    if side is client is not last:
                        exchange = (bytearray(), bytearray())
                        self.exchanges.append(exchange)
                    last = side
                    exchange[side is server].extend(data)
                    (client if side is server else server).sendall(data)


def ask_all(registry: Registry, folder: Path) -> None:
    adapters, aliases, server = registry.adapters, registry.aliases, registry.server
    assert server is not None
    registry.tokens.own()
    adapters.tasks(holding="course")
    adapters.list(where="rank >= 1", tags={"stage": "pilot"}, sort="version:desc", metrics=["mmlu.acc"])
    adapters.show("course_rec@1")
    for wrong in ({"where": "val_loss <"}, {"task": "nothing"}):
        with pytest.raises(FuseryError):
            adapters.list(**wrong)
    made = adapters.register(folder, val_loss=0.5, **FACTS)
    [weights] = [each for each in adapters.show(made.name).files if each.path.endswith(".safetensors")]
    parts = folder.parent / "parts"
    parts.mkdir()
    entry = FileEntry(path=weights.path, size=weights.size, sha256=Digest(weights.sha256))
    for start in (0, 100):
        (parts / f"{entry.sha256}.arriving").write_bytes((folder / weights.path).read_bytes()[:start])
        download(server, entry, parts / str(start), parts, None)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(FuseryError):
        adapters.register(folder, base="tiny", task="other")
    adapters.amend(made.name, note="for the pilot", tags={"stage": "beta"}, reason="it goes on")
    registry.evaluations.record(made.name, {"mmlu.acc": 0.5}, harness="ours")
    aliases.set("course_rec#prod", "course_rec@1", reason="the first")
    aliases.set_rules("prod", {"approvals": 1})
    aliases.promote(made.name, "prod", reason="newer")
    registry.deployments.record("course_rec@1", "prod-eu/ranker")
    adapters.yank(made.name, reason="wrong data")
    registry.provenance.lineage(made.name)
    registry.upkeep.log(limit=2)


@pytest.fixture
def registry(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    base = tiny_models.make_base(tmp_path / "tiny", layers=1)
    (tmp_path / "home").mkdir()
    shutil.copyfile(sqlite_template, tmp_path / "home" / "fusery.db")
    monkeypatch.setenv("FUSERY_USER", "anna")
    with Registry.open(tmp_path / "home") as opened:
        opened.bases.add(base, name="tiny")
        for seed, name in enumerate(("first", "new")):
            folder = tiny_models.make_adapter(tmp_path / name, base, rank=1, num_layers=1, seed=seed)
            config = folder / "adapter_config.json"  # the bytes that were recorded
            config.write_text(config.read_text().replace('"learning_rate": 3e-05', '"learning_rate": 1e-05'))
            config = folder / "adapter_config.json"
            config.write_text(config.read_text().replace(str(base), "tiny"))
        opened.adapters.register(tmp_path / "first", **FACTS)
        yield opened


def response_of(response: HTTPResponse) -> dict[str, Any]:
    response.begin()
    data = response.read()
    is_json = response.getheader("content-type", "").startswith("application/json")
    return {"status": response.status, "answer": json.loads(data) if is_json else f"{len(data)} bytes"}


def remade(registry: Registry, folder: Path) -> list[dict[str, Any]]:
    door = LocalAuth("anna")
    with pages_of(registry, door) as address:
        parts = urlsplit(address)
        relay = Relay((str(parts.hostname), parts.port or 0))
        with (
            raw_server(relay.relay) as port,
            Registry.open(f"http://127.0.0.1:{port}", token=door.key) as remote,
        ):
            ask_all(remote, folder)
    found = []
    for request, response in relay.exchanges:
        head, _, body = bytes(request).partition(b"\r\n\r\n")
        text = head.decode().replace(f"127.0.0.1:{port}", HOST).replace(door.key, TOKEN)
        shown = body.decode() if body.isascii() else {"base64": base64.b64encode(body).decode()}
        stored = cast(socket.socket, Stored(bytes(response)))
        found.append({"request": text.split("\r\n"), "body": shown, **response_of(HTTPResponse(stored))})
    return found


@dataclass
class Stored:
    data: bytes

    def makefile(self, *_: str) -> BytesIO:
        return BytesIO(self.data)


@pytest.fixture
def recorded(registry: Registry, tmp_path: Path) -> list[dict[str, Any]]:
    if REMAKE:
        text = json.dumps(remade(registry, tmp_path / "new"), indent=0)
        assert str(tmp_path.parent) not in text
        RECORDING.write_text(text + "\n", encoding="utf-8")
        pytest.skip("the recording was made anew")
    found: list[dict[str, Any]] = json.loads(RECORDING.read_text(encoding="utf-8"))
    return found


def test_recorded_requests_are_answered_by_the_server_of_today(
    recorded: list[dict[str, Any]], registry: Registry
) -> None:
    door = LocalAuth("anna")
    with pages_of(registry, door) as address:
        parts = urlsplit(address)
        for exchange in recorded:
            body = exchange["body"]
            data = base64.b64decode(body["base64"]) if isinstance(body, dict) else body.encode()
            head = "\r\n".join(exchange["request"]).replace(HOST, parts.netloc).replace(TOKEN, door.key)
            with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=60) as connection:
                connection.sendall(f"{head}\r\n\r\n".encode() + data)
                now = response_of(HTTPResponse(connection))
            called = exchange["request"][0]
            assert now["status"] == exchange["status"], (called, now)
            assert list(lost(exchange["answer"], now["answer"])) == [], called


def test_recorded_answers_are_decoded_by_the_client_of_today(recorded: list[dict[str, Any]]) -> None:
    operations = dict(all_operations())
    kinds = dict.fromkeys(("read", "write", "refused", "blobs", "bytes"), 0)
    for exchange in recorded:
        answer, (method, target, _) = exchange["answer"], exchange["request"][0].split()
        path = urlsplit(target).path.removeprefix("/api/v1/")
        if isinstance(answer, dict) and "error" in answer:
            error = failure(answer["error"], "")
            assert type(error) is not ServerError and error.code == answer["error"]["code"], target
            assert answer["error"].get("details", {}).keys() <= vars(error).keys(), target
            kinds["refused"] += 1
        elif path.startswith("blobs/") and method == "GET":
            kinds["bytes"] += 1
        else:
            kind = operations[path].hints["return"] if path in operations else Arrived
            record = decode(list[Arrived] if path == "blobs/missing" else kind, answer)
            assert list(lost(answer, encode(record))) == [], target
            kinds["blobs" if kind is Arrived else "read" if method == "GET" else "write"] += 1
    assert min(kinds.values()) >= 2, kinds


def all_operations() -> Iterator[tuple[str, Operation]]:
    with Registry.open("nowhere") as registry:
        for name, resource in vars(registry).items():
            if isinstance(resource, Resource):
                for operation in operations_of(type(resource)):
                    yield f"{name}/{operation.name}", operation


def lost(then: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield the places of a recorded answer that another has not, or whose JSON type differs; null may become anything."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            yield from lost(value, now[key], f"{place}.{key}") if key in now else [f"{place}.{key}"]
    elif isinstance(then, list) and isinstance(now, list):
        for index, (before, after) in enumerate(zip(then, now, strict=False)):
            yield from lost(before, after, f"{place}[{index}]")
        yield from [f"{place}[{len(now)}]"] * (len(now) < len(then))
    elif None not in (then, now) and type(then) is not type(now) and {type(then), type(now)} != {int, float}:
        yield place


def test_a_removed_a_renamed_and_a_retyped_field_are_noticed() -> None:
    then = {"a": 1, "b": [{"c": None, "d": "x"}]}
    assert list(lost(then, {"b": [{"c": 1, "e": 2}]})) == [".a", ".b[0].d"]
    assert list(lost(then, {"a": "1", "b": []})) == [".a", ".b[0]"]
