"""A register reads each file once: parsed once, and hashed once while it is copied; what is looked up is looked up once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import query_plans
from peft_folders import make_peft
from run_folders import make_run

from fusery.registry import Registry
from fusery.registry.registration import register as steps

MakeAdapter = Callable[..., Path]


SMALLEST = 2048
"""Bytes from which something is counted: a manifest's own digest is taken whenever it is asked for."""
_SHA256 = hashlib.sha256


@contextmanager
def hashed() -> Iterator[Counter[str]]:
    """Yield a counter that fills with the digests of all that this process hashes."""
    counted: Counter[str] = Counter()

    class CountedHash:
        def __init__(self, data: bytes = b"") -> None:
            self._running, self._size = _SHA256(data), len(data)

        def update(self, data: bytes) -> None:
            self._running.update(data)
            self._size += len(data)

        def hexdigest(self) -> str:
            found = self._running.hexdigest()
            counted[found] += self._size >= SMALLEST
            return found

        def digest(self) -> bytes:
            return bytes.fromhex(self.hexdigest())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "sha256", CountedHash)
        yield counted


@pytest.fixture
def with_base(sqlite_registry: Registry, tiny_base: Path) -> Registry:
    sqlite_registry.bases.add(tiny_base, name="tiny")
    return sqlite_registry


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are parsed."""
    found: list[Path] = []
    read = steps.read_adapter_folder

    def counting(path: Path, *rest: Any) -> Any:
        found.append(path)
        return read(path, *rest)

    monkeypatch.setattr(steps, "read_adapter_folder", counting)
    return found


@pytest.mark.parametrize("form", ["mlx", "peft", "run"])
def test_each_file_is_read_once(
    with_base: Registry,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    tiny_base: Path,
    parses: list[Path],
    form: str,
) -> None:
    chosen: dict[str, str] = {}
    if form == "mlx":
        folder, name = make_adapter(), "adapters.safetensors"
    elif form == "peft":
        folder, name = make_peft(tmp_path / "peft", tiny_base), "adapter_model.safetensors"
    else:
        folder = make_run(tmp_path / "run", tiny_base, saved=(20, 40), iters=40)
        name, chosen = "0000020_adapters.safetensors", {"checkpoint": "20"}
    with hashed() as counted:
        made = with_base.adapters.register(folder, base="tiny", task="one", **chosen)
    assert made.created
    assert parses == [folder]
    assert counted[_SHA256((folder / name).read_bytes()).hexdigest()] == 1
    # Of the other form nothing is read twice either, and of weights that are not meant nothing at all.
    assert sum(counted.values()) == (2 if form == "peft" else 1)
    assert max(counted.values()) == 1, counted.most_common(3)


def test_the_base_and_the_parent_are_looked_up_once(with_base: Registry, make_adapter: MakeAdapter) -> None:
    with_base.adapters.register(make_adapter("a", seed=1), base="tiny", task="one")
    with query_plans.recorded() as found:
        with_base.adapters.register(make_adapter("b", seed=2), base="tiny", task="one", parent="one@1")
    asked = [query.statement for query in found]
    assert len([text for text in asked if "base_name.folded =" in text]) == 1
    assert len([text for text in asked if "adapter.version =" in text and "findings" not in text]) == 1
