"""Registries made once: one with two bases, adapters and fused models to alter copies of, and one with one of everything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import lineage_registry
import pytest
import tiny_models
from kept_registries import FIRST, KEEP, LLAMA, OTHER, QWEN, SECOND, Museum

from fusery.registry import Registry


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Museum]:
    """Everything on record, with the originals to be copied; only to be read and identified with."""
    root = tmp_path_factory.mktemp("museum")
    llama = tiny_models.make_base(root / "llama", layers=3)
    qwen = tiny_models.make_base(root / "qwen", kind="qwen2", dtype="float32", layers=3, tied=True, seed=5)
    with Registry.open(root / "home") as registry:
        registry.init()
        registry.bases.add(llama, name=LLAMA)
        registry.bases.add(qwen, name=QWEN)
        originals = {LLAMA: llama, QWEN: qwen}
        for name, base, task, date, seed, rank in (
            (FIRST, llama, "course_rec", "20260115", 1, 8),
            (SECOND, llama, "course_rec", "20260201", 2, 8),
            (OTHER, qwen, "songs", "20260301", 3, 4),
        ):
            folder = tiny_models.make_adapter(root / name, base, seed=seed, rank=rank)
            registry.adapters.register(folder, base=LLAMA if base is llama else QWEN, task=task, date=date)
            originals[name] = folder
            fused = registry.fused.fuse(name, KEEP)
            originals[f"fused {name}"] = shutil.copytree(fused.path, root / f"fused {name}")
        yield Museum(registry, originals)


@pytest.fixture
def withdrawn() -> tuple[Registry, dict[str, str]]:
    """A registry and its records by what they are called; only to be read."""
    return lineage_registry.withdrawn()
