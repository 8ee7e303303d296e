"""The weights of registered adapters: read in place, or fetched from a store elsewhere; damaged ones are refused."""

from __future__ import annotations

import pytest

from fusery.registry import Registry
from fusery.registry.comparison.modules import compare_adapters, overall
from fusery.registry.comparison.weights import open_registered
from fusery.registry.records.references import resolve_adapter
from fusery.storage.errors import BlobCorruptError


def compared(registry: Registry) -> object:
    with registry.workspace.database.read() as session:
        adapters = [resolve_adapter(session, f"course_rec@{version}") for version in (1, 2)]
        files = [file for adapter in adapters for file in adapter.manifest.files]
    assert files
    with open_registered(registry.workspace, adapters) as (ours, theirs):
        return overall(compare_adapters(ours, theirs)).to_dict()


def test_weights_are_read_in_place_or_fetched(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compared(stocked)
    monkeypatch.setattr(type(stocked.workspace.store), "local_path", lambda *_, **__: None)
    assert compared(stocked) == expected


def test_damaged_weights_are_refused(stocked: Registry) -> None:
    files = stocked.adapters.show("course_rec@1")["files"]
    digest = next(file["sha256"] for file in files if file["path"].endswith("safetensors"))
    path = stocked.workspace.store.local_path(digest)
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BlobCorruptError):
        compared(stocked)
