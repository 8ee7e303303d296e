"""A backup in a bucket, made again over itself, and of a registry whose own store is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from s3_server import BUCKET, find_server, running_server
from store_shelf import open_workspace

from fusery.registry import Registry

pytestmark = pytest.mark.timing

WEED = find_server()


@pytest.mark.slow
@pytest.mark.skipif(WEED is None, reason="no SeaweedFS here")
def test_from_bucket_to_bucket(tiny_base: Path, tmp_path: Path) -> None:
    assert WEED is not None
    (tmp_path / "s3").mkdir()
    with running_server(WEED, tmp_path / "s3") as server:
        options = server.options()
        store = f"s3://{BUCKET}/live"
        with Registry(open_workspace(tmp_path / "home", "", store, options)) as registry:
            registry.init()
            registry.bases.add(tiny_base, name="tiny")
            registry.upkeep.backup(f"s3://{BUCKET}/saved")
            adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_base, seed=1)
            registry.adapters.register(adapter, base="tiny", task="course_rec")

            made = registry.upkeep.backup(f"s3://{BUCKET}/saved")

            assert made.copied.count == 2
            restored_store = f"s3://{BUCKET}/restored"
            with Registry(open_workspace(tmp_path / "new", "", restored_store, options)) as restored:
                restored.upkeep.restore(f"s3://{BUCKET}/saved")
                assert restored.upkeep.audit_all(jobs=2).ok
                assert restored.adapters.list() == registry.adapters.list()
        secrets = [text for name, text in options.items() if name in ("key", "secret")]
        document = json.dumps(made.to_dict())
        assert not any(secret in document for secret in secrets)
