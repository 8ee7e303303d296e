"""The calls of Dynamo to its downloader, and its rules for the folder, as its source has them.

Source: ai-dynamo/dynamo, components/src/dynamo/common/lora/runtime.py (protocol 2) and
components/src/dynamo/vllm/runtime_lora_validation.py, read in November 2026; Dynamo itself is not run.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fusery.integrations.sync.dynamo import Downloader
from fusery.registry import Registry

from .conftest import V1, running

pytestmark = pytest.mark.timing

ALLOWED = {"adapter_config.json", "adapter_model.safetensors", "new_embeddings.safetensors"}


class RuntimeLoRANotFoundError(RuntimeError): ...


class RuntimeLoRAResolverUnavailableError(RuntimeError): ...


@dataclass(frozen=True)
class ResolvedLoRA:
    local_path: Path
    source_revision: str
    size_bytes: int | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ResolveContext:
    adapter_key: str
    base_model_name: str
    cache_root: Path
    deadline_monotonic: float
    max_download_bytes: int
    request_id: str


@pytest.fixture(autouse=True)
def dynamo(monkeypatch: pytest.MonkeyPatch, stocked: Registry) -> None:
    runtime = types.ModuleType("dynamo.common.lora.runtime")
    for each in (ResolvedLoRA, RuntimeLoRANotFoundError, RuntimeLoRAResolverUnavailableError):
        setattr(runtime, each.__name__, each)
    for name in ("dynamo", "dynamo.common", "dynamo.common.lora"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "dynamo.common.lora.runtime", runtime)
    monkeypatch.setenv("FUSERY_REGISTRY", str(stocked.workspace.settings.home))
    monkeypatch.setenv("FUSERY_DATABASE_URL", stocked.workspace.settings.database)


@pytest.fixture
def downloader() -> Iterator[Downloader]:
    made = Downloader()
    yield made
    if made._resolver is not None:
        made._resolver.close()


def context(root: Path, *, base: str = "tiny", most: int = 1 << 30) -> ResolveContext:
    return ResolveContext("dyn-lora-0", base, root, 1e9, most, "r")


def ask(downloader: Downloader, uri: str, asked: ResolveContext) -> Any:
    return asyncio.run(downloader.resolve(source_uri=uri, context=asked))


def validate(found: ResolvedLoRA, asked: ResolveContext) -> None:
    assert isinstance(found, ResolvedLoRA) and isinstance(found.local_path, Path)
    assert 0 < len(found.source_revision.encode()) <= 512 and found.source_revision.isprintable()
    assert not found.local_path.is_symlink() and found.local_path.is_dir()
    assert found.local_path.resolve().is_relative_to(asked.cache_root.resolve())
    total = 0
    for folder, folders, files in os.walk(found.local_path):
        assert not folders and Path(folder) == found.local_path
        for name in files:
            status = (found.local_path / name).lstat()
            assert name in ALLOWED and status.st_nlink == 1
            total += status.st_size
    assert total == found.size_bytes <= asked.max_download_bytes
    config = json.loads((found.local_path / "adapter_config.json").read_text())
    assert type(config["r"]) is int and config["r"] > 0
    assert config["base_model_name_or_path"] == asked.base_model_name
    data = (found.local_path / "adapter_model.safetensors").read_bytes()
    [length] = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    assert names and all(any(target in name for name in names) for target in config["target_modules"])


def test_a_snapshot_as_dynamo_wants_it(downloader: Downloader, stocked: Registry, tmp_path: Path) -> None:
    asked = context(tmp_path / "dyn")
    asked.cache_root.mkdir()
    found = ask(downloader, f"fusery://{V1}", asked)
    validate(found, asked)
    assert found.source_revision == f"sha256:{stocked.adapters.show(V1).digest}"
    assert ask(downloader, "fusery://course_rec@1", asked) == found
    assert running(stocked) == [V1]
    assert stocked.deployments.list()[0].via == "dynamo"


def test_refused_adapters(
    downloader: Downloader, stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "dyn"
    stocked.aliases.set("prod", "course_rec@2")
    stocked.adapters.yank("course_rec@1", reason="bad data")
    for uri, limits in (
        ("fusery://course_rec#prod", {}),
        (f"fusery://{V1}", {}),
        ("fusery://course_rec@2", {"base": "other"}),
        ("fusery://course_rec@2", {"most": 100}),
    ):
        with pytest.raises(RuntimeLoRANotFoundError):
            ask(downloader, uri, context(root, **limits))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["dynamo.vllm", "--enable-lora", "--max-lora-rank", "2"])
    with pytest.raises(RuntimeLoRANotFoundError, match="--max-lora-rank 2"):
        ask(downloader, "fusery://course_rec@2", context(root))
    assert running(stocked) == []
    for uri in ("fusery://", "s3://x/y", "fusery", "fusery://rerank@1", "fusery://../x"):
        assert ask(downloader, uri, context(root)) is None


def test_registry_is_away(downloader: Downloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("FUSERY_TOKEN", "fusery_" + "a" * 43)
    with pytest.raises(RuntimeLoRAResolverUnavailableError):
        ask(downloader, f"fusery://{V1}", context(tmp_path / "dyn"))
