"""Similar adapters are found however they are written, of all tasks and bases."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from page_server import pages_of
from sqlalchemy import delete, select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing

MakeAdapter = Callable[..., Path]


def with_noise(folder: Path, target: Path, share: float, seed: int = 5) -> Path:
    """Copy an adapter and add noise to each lora_b: `share` of its norm."""
    shutil.copytree(folder, target)
    path, random = target / "adapters.safetensors", np.random.default_rng(seed)
    tensors = {}
    for name, (_, shape, data) in tiny_models.read_tensors(path).items():
        value = np.frombuffer(data, np.float32).reshape(shape)
        noise = random.standard_normal(shape).astype(np.float32)
        factor = share * np.linalg.norm(value) / np.linalg.norm(noise) if name.endswith("lora_b") else 0
        tensors[name] = ("F32", value + np.float32(factor) * noise)
    tiny_models.write_tensors(path, tensors, None)
    return target


@pytest.fixture
def shelf(registry: Registry, tiny_base: Path, tmp_path: Path, make_adapter: MakeAdapter) -> Path:
    """A folder that is registered as `one@1`; a nearer, a farther and three unrelated ones have other tasks and bases."""
    registry.bases.add(tiny_base, name="tiny")
    registry.bases.add(tiny_models.make_base(tmp_path / "quantised", bits=4), name="quantised")
    first = make_adapter("first", seed=1)
    registry.adapters.register(first, base="tiny", task="one")
    registry.adapters.register(with_noise(first, tmp_path / "far", 1.0), base="tiny", task="far")
    for seed in (2, 3, 4):
        registry.adapters.register(make_adapter(f"a{seed}", seed=seed), base="tiny", task="other")
    near = with_noise(first, tmp_path / "near", 0.2)
    registry.adapters.register(near, base="quantised", trained_on="tiny", task="near")
    return first


def test_the_most_similar_come_first_with_exact_cosines(registry: Registry, shelf: Path) -> None:
    near, far = registry.adapters.similar("one@1")
    assert ([near.name[:4], far.name[:3]], near.base) == (["near", "far"], "quantised")
    assert near.exact and far.exact
    # Noise of a share s of the norm turns an update by arctan(s).
    assert near.cosine == pytest.approx(1 / 1.04**0.5, abs=0.01)
    assert far.cosine == pytest.approx(0.5**0.5, abs=0.03)
    assert registry.adapters.similar("one@1", limit=1) == [near]
    itself, *others = registry.adapters.similar(shelf)
    assert itself.name.startswith("one_v1") and itself.cosine == pytest.approx(1, abs=1e-6)
    assert others == [near, far]
    assert registry.adapters.similar("other@2") == []


def test_a_server_estimates_them(registry: Registry, shelf: Path) -> None:
    """It reads no weights for that, and receives none."""
    door = LocalAuth("anna")
    with pages_of(registry, door) as address, Registry.open(address, token=door.key) as remote:
        for reference in ("one@1", shelf):
            estimates, exact = remote.adapters.similar(reference), registry.adapters.similar(reference)
            assert not any(one.exact for one in estimates)
            assert [one.name for one in estimates] == [one.name for one in exact]
            for estimate, measured in zip(estimates, exact, strict=True):
                assert estimate.cosine == pytest.approx(measured.cosine, abs=0.15)
        for sketch in ("00", "0" * 512, "0g" * 256, "f" * 514):
            with pytest.raises(BadInputError):
                remote.adapters.estimate_similar(sketch=sketch)
        for limit in (0, -1, 101):
            for place in (remote, registry):
                with pytest.raises(BadInputError):
                    place.adapters.similar("one@1", limit=limit)


def test_the_order_is_exact_also_of_a_few(registry: Registry, shelf: Path, tmp_path: Path) -> None:
    for number in range(8):
        copy = with_noise(shelf, tmp_path / f"copy{number}", 0.9 + 0.02 * number, seed=number)
        registry.adapters.register(copy, base="tiny", task=f"copy{number}")
    everything = registry.adapters.similar("one@1", limit=100)
    assert [one.cosine for one in everything] == sorted((one.cosine for one in everything), reverse=True)
    for limit in (1, 2, 3):
        assert registry.adapters.similar("one@1", limit=limit) == everything[:limit]


def test_yanked_and_unknown_ones(registry: Registry, shelf: Path) -> None:
    registry.adapters.yank("near@1", reason="bad data")
    near, far = registry.adapters.similar("one@1")
    assert (near.yanked, far.yanked) == (True, False)
    for text in ("z" * 512, "0" * 512):  # edited outside of fusery
        with registry.workspace.database.write() as session:
            number = session.scalars(
                select(tables.AdapterRow.id).where(tables.AdapterRow.name == far.name)
            ).one()
            session.get_one(tables.AdapterSketchRow, number).numbers = text
        assert registry.adapters.similar("one@1") == [near]
    with registry.workspace.database.write() as session:  # as in a registry of fusery 0.1.0
        session.execute(delete(tables.AdapterSketchRow))
    with pytest.raises(BadInputError, match="no sketch"):
        registry.adapters.similar("one@1")
    assert registry.adapters.similar(shelf) == []


def test_what_cannot_be_compared(registry: Registry, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownReferenceError):
        registry.adapters.similar("nobody@1")
    (shelf / "adapters.safetensors").unlink()
    for folder in (shelf, tmp_path):
        with pytest.raises(BadInputError):
            registry.adapters.similar(folder)


def test_one_whose_weights_are_gone_keeps_its_estimate(registry: Registry, shelf: Path) -> None:
    files = registry.adapters.show("near@1").files
    digest = next(file.sha256 for file in files if file.path == "adapters.safetensors")
    path = registry.workspace.store.local_path(digest)  # type: ignore[arg-type]
    assert path is not None
    path.unlink()
    near, far = registry.adapters.similar("one@1")
    assert (near.exact, far.exact) == (False, True)
    assert near.cosine == pytest.approx(0.98, abs=0.05)
    assert not any(one.exact for one in registry.adapters.similar("near@1"))
