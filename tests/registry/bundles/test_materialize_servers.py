"""Bundles for other people's servers out of a registry: whole, counted, recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.bundles import Choices
from fusery.registry.errors import BadInputError
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def stocked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with two versions of a task, one for all tests: the database has no part in what they ask."""
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(sqlite_template, home / "fusery.db")
    settings = Settings(
        home=home,
        database_url="",
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="tester",
    )
    scratch = tmp_path_factory.mktemp("adapters")
    base = tiny_models.make_base(scratch / "tiny")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        for version, date in ((1, "20260115"), (2, "20260201")):
            adapter = tiny_models.make_adapter(scratch / str(version), base, seed=version, rank=2**version)
            registry.adapters.register(adapter, base="tiny", task="course_rec", date=date)
        yield registry


@pytest.mark.parametrize(
    ("target", "modules", "tensors"),
    [("vllm", 28, 0), ("k8s", 28, 0), ("lorax", 56, 0), ("ollama", 28, 39), ("llamacpp", 28, 39)],
)
def test_adapters_beside_their_base(
    stocked: Registry, target: str, modules: int, tensors: int, tmp_path: Path
) -> None:
    """Two adapters of seven modules in two of four layers; LoRAX gets them in every layer."""
    choices = Choices(base_name="org/Tiny", location="s3://bucket/models") if target == "k8s" else None
    bundle = stocked.bundles.materialize(
        ["course_rec@1", "course_rec@2"], tmp_path / "out", target=target, content="adapters", choices=choices
    )
    assert bundle.to_dict()["layout"] == {"tensors": tensors, "modules": modules, "adapters": 2}
    assert bundle.adapters == ("course_rec_v1_20260115", "course_rec_v2_20260201")
    record = json.loads((tmp_path / "out" / "fusery.json").read_text())
    digests = [stocked.adapters.show(name)["digest"] for name in bundle.adapters]
    assert [adapter["digest"] for adapter in record["adapters"]] == digests
    again = stocked.bundles.materialize(
        ["course_rec@1", "course_rec@2"], tmp_path / "out", target=target, content="adapters", choices=choices
    )
    assert again.existed
    kept = [each for each in stocked.adapters.show("course_rec@2")["bundles"] if each["target"] == target]
    assert len(kept) == 1


@pytest.mark.parametrize("target", ["vllm", "ollama", "llamacpp", "gguf"])
def test_a_fused_model(stocked: Registry, target: str, tmp_path: Path) -> None:
    bundle = stocked.bundles.materialize("course_rec@1", tmp_path / "out", target=target, content="fused")
    assert bundle.layout.tensors == 39
    assert bundle.fused
    assert bundle.fused in (tmp_path / "out" / "fusery.json").read_text()
    assert stocked.upkeep.audit().ok


def test_what_a_server_calls_the_base_can_be_said(stocked: Registry, tmp_path: Path) -> None:
    choices = Choices(base_name="org/Served")
    stocked.bundles.materialize("course_rec@1", tmp_path / "out", target="vllm", choices=choices)
    (adapter,) = (tmp_path / "out" / "adapters").iterdir()
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/Served"


def test_a_target_holds_what_it_can(stocked: Registry, tmp_path: Path) -> None:
    for target, content in (("lorax", "fused"), ("k8s", "fused"), ("gguf", "adapters")):
        with pytest.raises(BadInputError, match=f"the target {target} takes no --"):
            stocked.bundles.materialize("course_rec@1", tmp_path / "out", target=target, content=content)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
