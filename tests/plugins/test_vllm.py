"""vLLM's plugin, with vLLM's two classes as they are in 0.32.0 and 0.33.0; `make soak` has vLLM itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from peft_folders import ROOT

from fusery.registry import Registry

pytestmark = pytest.mark.timing

PLUGIN = ROOT / "plugins" / "vllm"
V1 = "course_rec_v1_20260115"


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError("id must be > 0")
        assert self.lora_path, "lora_path cannot be empty"


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


class LoRAResolverRegistry:
    registered: dict[str, LoRAResolver] = {}  # noqa: RUF012  as it is there

    @classmethod
    def register_resolver(cls, name: str, resolver: LoRAResolver) -> None:
        cls.registered[name] = resolver


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoRAResolver]:
    monkeypatch.setattr(LoRAResolverRegistry, "registered", {})
    modules: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.lora.resolver": {"LoRAResolver": LoRAResolver, "LoRAResolverRegistry": LoRAResolverRegistry},
    }
    for name, inside in modules.items():
        made = types.ModuleType(name)
        made.__dict__.update(inside)
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    monkeypatch.setenv("FUSERY_SERVED_FILES", str(tmp_path / "files"))
    monkeypatch.setattr(sys, "argv", ["vllm", "serve", "tiny", "--port=8123"])
    import fusery_vllm

    fusery_vllm.register()
    [(name, resolver)] = LoRAResolverRegistry.registered.items()
    assert name == "fusery"
    yield resolver
    if resolver._resolver is not None:  # type: ignore[attr-defined]
        resolver._resolver.close()  # type: ignore[attr-defined]
    for each in ("fusery_vllm", "fusery_vllm.resolver"):
        sys.modules.pop(each, None)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        opened.init()
        base = tiny_models.make_base(tmp_path / "base", layers=2)
        tiny_models.make_adapter(tmp_path / "first", base, num_layers=2)
        opened.bases.add(base, name="tiny")
        opened.adapters.register(tmp_path / "first", base="tiny", task="course_rec", date="20260115")
        yield opened


def ask(resolver: LoRAResolver, name: str, base: str = "tiny") -> LoRARequest | None:
    return asyncio.run(resolver.resolve_lora(base, name))


def test_what_vllm_gets(registered: LoRAResolver, registry: Registry) -> None:
    found = ask(registered, V1)
    assert found is not None
    assert (found.lora_name, found.lora_int_id) == (V1, 1)
    assert {path.name for path in Path(found.lora_path).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    again = ask(registered, "course_rec@1")
    assert again is not None and (again.lora_name, again.lora_path) == ("course_rec@1", found.lora_path)
    [row] = registry.deployments.list()
    assert row.via == "vllm" and row.place.startswith("vllm@") and row.place.endswith(":8123")
    assert ask(registered, "gpt-4") is None
    assert ask(registered, "course_rec_v7_20270101") is None


def test_refusals_reach_the_client_and_what_is_broken_does_not(
    registered: LoRAResolver, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.aliases.set("prod", "course_rec@1")
    with pytest.raises(ValueError, match="is an alias"):
        ask(registered, "course_rec#prod")
    with pytest.raises(ValueError, match="trained on tiny"):
        ask(registered, V1, "Qwen/Qwen3-0.6B")
    registry.adapters.yank(V1, reason="names of customers")
    with pytest.raises(ValueError, match="was withdrawn") as caught:
        ask(registered, V1)
    assert "customers" not in str(caught.value)
    registry.adapters.unyank(V1, reason="no")
    for blob in (tmp_path / "home" / "store" / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o644)
            blob.write_bytes(b"x")
    with pytest.raises(RuntimeError) as broken:
        ask(registered, V1)
    assert str(broken.value) == "the registry of adapters cannot be asked at the moment"
    assert str(tmp_path) not in str(broken.value)


def test_a_plugin_costs_nothing_where_nobody_asks() -> None:
    code = """
import sys, types
for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.lora.resolver"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["vllm.lora.request"].LoRARequest = object
sys.modules["vllm.lora.resolver"].LoRAResolver = object
class Registry:
    register_resolver = staticmethod(lambda name, resolver: None)
sys.modules["vllm.lora.resolver"].LoRAResolverRegistry = Registry
before = set(sys.modules)
import fusery_vllm
fusery_vllm.register()
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} & {"fusery", "sqlalchemy", "numpy", "pydantic"}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PLUGIN,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PLUGIN)},
    )
    assert ran.stdout.strip() == "[]"
