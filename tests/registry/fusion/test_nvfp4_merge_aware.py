"""Axolotl's adapters that were trained to be merged into NVFP4: kept with their entry, and neither fused nor used unfused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
from peft_folders import make_peft

from fusery.registry import FuseRequest, Registry
from fusery.registry.bundles import Choices
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.registry.sync.files import write_adapter

CONFIG = Path(__file__).resolve().parents[2] / "data" / "trainer_configs" / "axolotl-0.19.0-merge-aware.json"
ENTRY = json.loads(CONFIG.read_text(encoding="utf-8"))["nvfp4_merge_aware"]


@pytest.fixture
def adapter(sqlite_registry: Registry, tmp_path: Path) -> str:
    base = tiny_models.make_base(tmp_path / "base", layout="hf")
    sqlite_registry.bases.add(base, name="SmolLM2-135M-Instruct")
    rank = json.loads(CONFIG.read_text(encoding="utf-8"))["r"]
    folder = make_peft(tmp_path / "adapter", base, rank=rank)
    shutil.copyfile(CONFIG, folder / "adapter_config.json")
    return sqlite_registry.adapters.register(
        folder, base="SmolLM2-135M-Instruct", task="qat", val_loss=1.0, dataset="greetings"
    ).name


def test_no_format_is_written(sqlite_registry: Registry, adapter: str) -> None:
    shown = sqlite_registry.adapters.show(adapter)
    found = {finding.code: finding for finding in shown.findings}
    assert found["nvfp4_merge_aware"].severity == "warning"
    assert "axolotl merge-lora" in found["nvfp4_merge_aware"].hint
    for precision in ("auto", "keep", "dequantize"):
        with pytest.raises(FusionUnsupportedError) as refused:
            sqlite_registry.fused.fuse(adapter, FuseRequest(precision, accept_loss=True))
        assert "axolotl merge-lora" in (refused.value.hint or "")
    with pytest.raises(FusionUnsupportedError):
        sqlite_registry.fused.formats(adapter)
    with pytest.raises(FusionUnsupportedError):
        sqlite_registry.adapters.probe(adapter, limit=1)


def test_unfused_use_is_refused(sqlite_registry: Registry, adapter: str, tmp_path: Path) -> None:
    choices = Choices(base_name="org/base")
    for target in ("adapters", "vllm", "hub"):
        with pytest.raises(BadInputError):
            sqlite_registry.bundles.materialize(
                adapter, tmp_path / target, target=target, content="adapters", choices=choices
            )
        assert not (tmp_path / target).exists()
    with pytest.raises(BadInputError):
        write_adapter(sqlite_registry.workspace, adapter, tmp_path, "peft")
    with pytest.raises(BadInputError):
        sqlite_registry.adapters.shrink(adapter, rank=2)


@pytest.mark.parametrize("form", ["mlx", "peft"])
def test_forms_keep_the_entry(sqlite_registry: Registry, adapter: str, tmp_path: Path, form: str) -> None:
    for folder in (
        sqlite_registry.adapters.folder(adapter, format=form),
        sqlite_registry.exchange.export(adapter, tmp_path, form=form).path,
    ):
        assert json.loads((folder / "adapter_config.json").read_text())["nvfp4_merge_aware"] == ENTRY
    again = sqlite_registry.adapters.register(folder, base="SmolLM2-135M-Instruct", task=f"again_{form}")
    assert "nvfp4_merge_aware" in {finding.code for finding in again.findings}
    back = sqlite_registry.adapters.folder(again.name, format={"mlx": "peft", "peft": "mlx"}[form])
    assert json.loads((back / "adapter_config.json").read_text())["nvfp4_merge_aware"] == ENTRY
