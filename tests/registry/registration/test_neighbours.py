"""A registered adapter that is the same, or nearly, is found; what is bounded stays bounded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sqlalchemy import delete

from fusery.registry import Registry, tables
from fusery.registry.admission.code import AdmissionError
from fusery.registry.registration import neighbours as module

MakeAdapter = Callable[..., Path]


@pytest.fixture
def known(registry: Registry, tiny_base: Path, make_adapter: MakeAdapter) -> Path:
    """A folder that is registered as `course_rec@1`."""
    registry.bases.add(tiny_base, name="tiny")
    folder = make_adapter("known", seed=1)
    registry.adapters.register(folder, base="tiny", task="course_rec", date="20260115")
    return folder


def changed(folder: Path, target: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Copy an adapter with other numbers."""
    shutil.copytree(folder, target)
    path = target / "adapters.safetensors"
    tensors = {
        name: np.frombuffer(data, np.float32).reshape(shape).copy()
        for name, (_, shape, data) in tiny_models.read_tensors(path).items()
    }
    change(tensors)
    tiny_models.write_tensors(path, {name: ("F32", value) for name, value in tensors.items()}, None)
    return target


def noisy(share: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Add noise of a share of each factor's norm."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        random = np.random.default_rng(5)
        for name, value in tensors.items():
            noise = random.standard_normal(value.shape).astype(np.float32)
            tensors[name] = value + noise * np.float32(share * np.linalg.norm(value) / np.linalg.norm(noise))

    return change


def in_another_gauge(tensors: dict[str, np.ndarray]) -> None:
    """Write the same updates with quite other factors."""
    random = np.random.default_rng(6)
    for name in [name for name in tensors if name.endswith("lora_a")]:
        other = name.replace("lora_a", "lora_b")
        mix = random.standard_normal((8, 8)) + 4 * np.eye(8)
        tensors[name] = (tensors[name] @ mix).astype(np.float32)
        tensors[other] = (np.linalg.inv(mix) @ tensors[other]).astype(np.float32)


def found(registry: Registry, folder: Path, **facts: Any) -> dict[str, str]:
    return {f.code: f.message for f in registry.adapters.check(folder, base="tiny", **facts)}


def test_nearly_the_same_update_is_named(registry: Registry, known: Path, tmp_path: Path) -> None:
    gauged = changed(known, tmp_path / "other", in_another_gauge)
    assert "100 % the same" in found(registry, gauged)["near_duplicate"], "in other factors"
    near = changed(known, tmp_path / "near", noisy(0.1))
    assert found(registry, near, parent="course_rec@1") == {}, "the parent may be near"
    checked = registry.adapters.check(near, base="tiny", task="course_rec", version=7)
    [finding] = [each for each in checked if each.code == "near_duplicate"]
    assert finding.message.endswith("the same as that of course_rec_v1_20260115")
    share = float(finding.message.partition("is ")[2].partition(" %")[0])
    assert 95 <= share < 99.5
    assert "course_rec@7" in finding.hint
    # The recorded hint still names the same adapter after a later registration.
    done = registry.adapters.register(near, base="tiny", task="course_rec")
    [finding] = [each for each in done.findings if each.code == "near_duplicate"]
    assert f"fusery diff course_rec_v1_20260115 course_rec@{done.version} --weights" in finding.hint


def test_other_updates_are_not_named(
    registry: Registry, known: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    def negated(tensors: dict[str, np.ndarray]) -> None:
        tensors.update({name: -value for name, value in tensors.items() if "lora_a" in name})

    for number, spoil in enumerate((noisy(2.0), negated)):
        assert found(registry, changed(known, tmp_path / f"other{number}", spoil)) == {}
    assert found(registry, make_adapter("second", seed=2)) == {}


def test_the_same_weights_are_named(registry: Registry, known: Path, tmp_path: Path) -> None:
    duplicate = {"duplicate_weights": "these weights are registered as course_rec_v1_20260115 on tiny"}
    scaled = shutil.copytree(known, tmp_path / "scaled")
    config = json.loads((scaled / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] *= 2
    (scaled / "adapter_config.json").write_text(json.dumps(config))
    assert found(registry, scaled, task="course_rec") == duplicate, "with another configuration"
    assert found(registry, known, task="other") == duplicate
    with pytest.raises(AdmissionError):
        registry.adapters.register(known, base="tiny", task="other", strict=True)
    assert registry.adapters.register(known, base="tiny", task="other").created


@pytest.mark.parametrize("yanked", ["course_rec@1", "other@1"])
def test_weights_that_were_yanked_are_named_as_yanked(registry: Registry, known: Path, yanked: str) -> None:
    registry.adapters.register(known, base="tiny", task="other")
    name = registry.adapters.yank(yanked, reason="trained on the test set")["name"]
    findings = registry.adapters.check(known, base="tiny", task="third")
    [message] = [each.message for each in findings if "yanked" in each.message]
    assert message.startswith(f"these weights are registered as {name} on tiny, which is yanked")


def test_one_that_is_registered_for_two_tasks_passes_for_either(
    registry: Registry, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(registry, known, task="course_rec") == {}
    registry.adapters.register(known, base="tiny", task="other")
    for _ in range(2):
        for task in ("course_rec", "other"):
            assert found(registry, known, task=task) == {}
            assert not registry.adapters.register(known, base="tiny", task=task, strict=True).created
        monkeypatch.setattr(module, "READ", 1)  # its own is seen however many tasks have these weights
    assert found(registry, known, task="third").keys() == {"duplicate_weights"}


def test_the_nearest_of_many_is_found_with_few_reads(
    registry: Registry,
    known: Path,
    tmp_path: Path,
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "READ", 4)
    for seed in range(10, 10 + 2 * module.READ):
        registry.adapters.register(make_adapter(f"a{seed}", seed=seed, rank=1), base="tiny", task="other")
    from fusery.registry.comparison import modules

    opened: list[Path] = []
    plain = modules.open_adapter

    def counted(path: Path, *words: Any, **options: Any) -> Any:
        opened.append(path)
        return plain(path, *words, **options)

    monkeypatch.setattr(modules, "open_adapter", counted)
    near = changed(known, tmp_path / "near", noisy(0.1))
    # It is older than all others; its sketch is the most similar one, of whatever task.
    for task in ("course_rec", "third"):
        opened.clear()
        assert "near_duplicate" in found(registry, near, task=task)
        assert len(opened) == 2
    with registry.workspace.database.write() as session:  # as in a registry of fusery 0.1.0
        session.execute(delete(tables.AdapterSketchRow))
    opened.clear()
    assert "near_duplicate" in found(registry, near, task="course_rec")  # the newest of the task are compared
    assert len(opened) == 2
