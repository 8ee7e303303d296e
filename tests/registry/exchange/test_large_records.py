"""Records up to the limits can be backed up, restored, pushed and pulled; larger ones are refused on arrival."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from database_facts import add_rows
from page_server import pages_of
from sqlalchemy import text
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.admission.code import AdmissionError
from fusery.registry.errors import BadInputError
from fusery.registry.records import YANKS
from fusery.registry.remote.container import BackupError
from fusery.registry.tables import bounds
from fusery.web.auth import Proxies, TokenAuth

MakeAdapter = Callable[..., Path]
TENSORS = 88_200 if "FUSERY_SOAK" in os.environ else 12_000


def write_config(folder: Path, **values: object) -> Path:
    """Add values to the configuration of an adapter."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.timing
@pytest.mark.slow
def test_base_with_many_tensors_is_restored_and_pushed(
    sqlite_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `make soak`, as many tensors as a mixture of 300 experts in each of 98 layers has."""
    base = tiny_models.make_base(tmp_path / "base")
    file = base / "model.safetensors"
    tensors: dict[str, tiny_models.Raw] = {
        name: (dtype, np.frombuffer(data, np.uint16).reshape(shape))
        for name, (dtype, shape, data) in tiny_models.read_tensors(file).items()
    }
    number = np.zeros((1, 1), np.uint16)
    for expert in range(TENSORS - len(tensors)):
        tensors[f"model.layers.{expert % 4}.mlp.experts.{expert // 4}.down_proj.weight"] = ("BF16", number)
    tiny_models.write_tensors(file, tensors, {"format": "mlx"})
    added = sqlite_registry.bases.add(base, name="large")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    sqlite_registry.adapters.register(adapter, base="large", task="course_rec", date="20260115")
    sqlite_registry.upkeep.backup(tmp_path / "backup", verify=True)
    with (
        Registry(open_workspace(tmp_path / "restored")) as restored,
        Registry.open(tmp_path / "there") as there,
    ):
        restored.upkeep.restore(tmp_path / "backup", own=True)
        there.init()
        monkeypatch.setenv("FUSERY_TOKEN", there.tokens.create("ci", role="publisher").secret)
        with pages_of(there, TokenAuth(there, Proxies())) as url:
            restored.exchange.push("course_rec", url)
        assert there.bases.show("large").digest == added.digest


def test_a_base_that_is_too_large_for_a_package_is_refused(
    sqlite_registry: Registry, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LARGEST", 1_000)
    with pytest.raises(BadInputError):
        sqlite_registry.bases.add(tiny_base, name="large")
    assert sqlite_registry.bases.list() == []


NUMBERS = [1e16, 1.5e19, 1e23, 2.0**70, 3.4e38, 1e300, -1e300, 1.5e-320, -0.0, 2**53 + 1, 2**70, 10**23 + 1]
"""PostgreSQL returns 1e300 as an integer of 301 digits, which a backup file must not contain."""


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_large_configurations_are_restored_as_they_are(
    stocked: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    deep: object = 1
    for _ in range(63):
        deep = [deep]
    extras = {"commas": "," * 2_100_000, "numbers": NUMBERS, "deep": deep}
    for seed, (task, extra) in enumerate(extras.items(), 7):
        folder = write_config(make_adapter(task, seed=seed), extra=extra)
        stocked.adapters.register(folder, base="tiny", task=task, date="20260115")
    folder = write_config(make_adapter("many", seed=3), extra=[0] * 500_000)
    with pytest.raises(AdmissionError):
        stocked.adapters.register(folder, base="tiny", task="many", date="20260115")
    assert stocked.upkeep.audit().ok
    stocked.upkeep.backup(tmp_path / "backup", verify=True)
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert len(restored.adapters.list()) == 5
        assert restored.upkeep.audit().ok


@pytest.mark.parametrize("row", ["many", "late"])
def test_adapter_over_the_limits_in_a_foreign_backup_is_refused(
    stocked: Registry, tmp_path: Path, row: str
) -> None:
    add_rows(stocked, "Yank", YANKS + 1 if row == "many" else 1, reason="bad data", lifted_by="tester")
    if row == "late":
        with stocked.workspace.database.write() as session:
            session.execute(text("UPDATE yank SET lifted_at = '2999-01-01 00:00:00.000000'"))
    stocked.upkeep.backup(tmp_path / "backup")
    with Registry(open_workspace(tmp_path / "theirs")) as theirs:
        theirs.init()
        with pytest.raises(BadInputError, match="yank"):
            theirs.exchange.pull("*", tmp_path / "backup")
        assert theirs.adapters.list() == []
    with Registry(open_workspace(tmp_path / "own")) as own:
        own.upkeep.restore(tmp_path / "backup", own=True)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE adapter SET digest = 'x' WHERE id = 1",
        "UPDATE manifest_file SET size = size + 1",
        "DELETE FROM event WHERE seq = 2",
    ],
)
def test_verify_reports_a_backup_that_cannot_be_restored(
    stocked: Registry, tmp_path: Path, change: str
) -> None:
    before = stocked.upkeep.backup(tmp_path / "backup", verify=True)
    with stocked.workspace.database.schema_change() as connection:
        connection.execute(text(change))
    with pytest.raises(BackupError) as caught:
        stocked.upkeep.backup(tmp_path / "backup", verify=True)
    assert caught.value.code == "bad_backup"
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        assert restored.upkeep.restore(tmp_path / "backup", own=True).last_event == before.last_event
