"""Records up to the limits can be backed up, restored, pushed and pulled; larger ones are refused on arrival."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from many_rows import add_rows
from page_server import pages_of
from sqlalchemy import text
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.admission import AdmissionError
from fusery.registry.backup.errors import BackupError
from fusery.registry.database.limits import YANKS
from fusery.registry.errors import BadInputError
from fusery.web.doors import Proxies, TeamDoor

TENSORS = 88_200
MakeAdapter = Callable[..., Path]


def write_config(folder: Path, **values: object) -> Path:
    """Add values to the configuration of an adapter."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.fixture(scope="module")
def large_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with as many tensors as a mixture with 300 experts in each of 98 layers."""
    folder = tiny_models.make_base(tmp_path_factory.mktemp("bases") / "large")
    file = folder / "model.safetensors"
    number = np.zeros((1, 1), np.uint16)
    tensors: dict[str, tiny_models.Raw] = {
        name: (dtype, np.frombuffer(data, np.uint16).reshape(shape))
        for name, (dtype, shape, data) in tiny_models.read_tensors(file).items()
    }
    for expert in range(TENSORS - len(tensors)):
        tensors[f"model.layers.{expert % 4}.mlp.experts.{expert // 4}.down_proj.weight"] = ("BF16", number)
    tiny_models.write_tensors(file, tensors, {"format": "mlx"})
    return folder


def test_base_with_88200_tensors_is_restored_and_pushed(
    sqlite_registry: Registry, large_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = sqlite_registry.bases.add(str(large_base), name="large")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", large_base)
    sqlite_registry.adapters.register(adapter, base="large", task="course_rec", date="20260115")
    sqlite_registry.upkeep.backup(tmp_path / "backup", verify=True)
    with (
        Registry(open_workspace(tmp_path / "restored")) as restored,
        Registry.open(tmp_path / "there") as there,
    ):
        restored.upkeep.restore(tmp_path / "backup", own=True)
        there.init()
        monkeypatch.setenv("FUSERY_TOKEN", there.tokens.create("ci", role="publisher").secret)
        with pages_of(there, TeamDoor(there, Proxies())) as url:
            restored.exchange.push("course_rec", url)
            assert there.bases.show("large").digest == added.digest
            with Registry.open(tmp_path / "pulled") as pulled:
                pulled.init()
                pulled.exchange.pull("course_rec", url)
                assert pulled.bases.show("large").digest == added.digest


def test_a_base_that_is_too_large_for_a_package_is_refused(
    sqlite_registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    file = folder / "model.safetensors"
    tensors = {
        name: (dtype, np.frombuffer(data, np.uint16).reshape(shape))
        for name, (dtype, shape, data) in tiny_models.read_tensors(file).items()
    }
    for number in range(50_000):
        tensors[f"{'x' * 350}{number}.weight"] = ("BF16", np.zeros((1, 1), np.uint16))
    tiny_models.write_tensors(file, tensors, {"format": "mlx"})
    with pytest.raises(BadInputError) as caught:
        sqlite_registry.bases.add(str(folder), name="large")
    assert "characters" in str(caught.value)
    assert sqlite_registry.bases.list() == []


def test_a_configuration_with_half_a_million_values_is_refused(
    stocked: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = write_config(make_adapter("many", seed=7), extra=[0] * 500_000)
    with pytest.raises(AdmissionError) as caught:
        stocked.adapters.register(folder, base="tiny", task="many", date="20260115")
    assert "200,000 values" in str(caught.value)
    stocked.upkeep.backup(tmp_path / "backup", verify=True)
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert len(restored.adapters.list()) == 2


def test_backup_with_commas_in_text_is_restored(
    stocked: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder = write_config(make_adapter("commas", seed=7), extra="," * 2_100_000)
    stocked.adapters.register(folder, base="tiny", task="commas", date="20260115")
    stocked.upkeep.backup(tmp_path / "backup", verify=True)
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert len(restored.adapters.list()) == 3


NUMBERS = [
    1e16,
    1.5e19,
    1e22,
    1e23,
    2.0**70,
    3.4e38,
    1e300,
    -1e300,
    1.5e-320,
    -0.0,
    2**53 + 1,
    2**63,
    2**70,
    10**23 + 1,
]


def test_large_numbers_are_restored_as_they_are(
    stocked: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """PostgreSQL hands 1e300 back as a whole number of 301 digits, which no file may have."""
    folder = write_config(make_adapter("numbers", seed=7), extra=NUMBERS)
    stocked.adapters.register(folder, base="tiny", task="numbers", date="20260115")
    assert stocked.upkeep.audit().ok
    stocked.upkeep.backup(tmp_path / "backup", verify=True)
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert restored.upkeep.audit().ok


def test_configuration_of_the_greatest_depth_is_restored(
    stocked: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    deep: object = 1
    for _ in range(63):
        deep = [deep]
    stocked.adapters.register(
        write_config(make_adapter("deep", seed=7), extra=deep), base="tiny", task="deep", date="20260115"
    )
    stocked.upkeep.backup(tmp_path / "backup", verify=True)


@pytest.mark.parametrize(
    ("table", "values"),
    [("adapter", {"training": {"extra": [0] * 2_000_000}}), ("yank", {"reason": "x" * (64 << 20)})],
)
def test_rows_too_large_for_a_restore_are_not_recorded(
    stocked: Registry, table: str, values: dict[str, object]
) -> None:
    from fusery.registry import tables

    with pytest.raises(BadInputError, match="too large"), stocked.workspace.database.write() as session:
        adapter = session.get(tables.Adapter, 1)
        assert adapter is not None
        if table == "adapter":
            adapter.training = values["training"]  # type: ignore[assignment]
        else:
            session.add(tables.Yank(adapter_id=1, at=adapter.created_at, by="tester", **values))
    assert stocked.upkeep.audit().ok


@pytest.mark.parametrize("row", ["many", "late"])
def test_foreign_backup_over_the_limits_is_refused(stocked: Registry, tmp_path: Path, row: str) -> None:
    add_rows(stocked, "Yank", YANKS + 1 if row == "many" else 1, reason="bad data", lifted_by="tester")
    if row == "late":
        with stocked.workspace.database.write() as session:
            session.execute(text("UPDATE yank SET lifted_at = '2999-01-01 00:00:00.000000'"))
    stocked.upkeep.backup(tmp_path / "backup")
    with Registry(open_workspace(tmp_path / "theirs")) as theirs:
        with pytest.raises(BackupError) as caught:
            theirs.upkeep.restore(tmp_path / "backup")
        assert "yank.ndjson" in caught.value.message
        theirs.upkeep.restore(tmp_path / "backup", own=True)


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
        from fusery.registry.database.guards import lifted

        with lifted(connection):
            connection.execute(text(change))
    with pytest.raises(BackupError) as caught:
        stocked.upkeep.backup(tmp_path / "backup", verify=True)
    assert caught.value.code == "bad_backup"
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        assert restored.upkeep.restore(tmp_path / "backup", own=True).last_event == before.last_event
