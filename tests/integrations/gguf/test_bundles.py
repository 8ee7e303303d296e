"""Bundles for other people's servers out of a registry: whole, counted, recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import yaml

from fusery.integrations.gguf import ollama
from fusery.registry import Registry
from fusery.registry.bundles import Choices, LayoutError
from fusery.registry.errors import BadInputError
from fusery.storage.digest import digest_file

pytest.importorskip("gguf")

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


@pytest.fixture(scope="module")
def stocked(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with two versions of a task, one for all tests: the database has no part in what they ask."""
    scratch = tmp_path_factory.mktemp("adapters")
    base = tiny_models.make_base(scratch / "tiny")
    module_registry.bases.add(base, name="tiny")
    for version, date in ((1, "20260115"), (2, "20260201")):
        adapter = tiny_models.make_adapter(scratch / str(version), base, seed=version, rank=2**version)
        module_registry.adapters.register(adapter, base="tiny", task="course_rec", date=date)
    return module_registry


@pytest.mark.parametrize(
    ("target", "modules", "tensors"),
    [("vllm", 28, 0), ("k8s", 28, 0), ("ollama", 28, 39), ("llamacpp", 28, 39)],
)
def test_adapters_beside_base(
    stocked: Registry, target: str, modules: int, tensors: int, tmp_path: Path
) -> None:
    choices = Choices(base_name="org/Tiny", location="s3://bucket/models") if target == "k8s" else None
    bundle = stocked.bundles.materialize(
        ["course_rec@1", "course_rec@2"], tmp_path / "out", target=target, content="adapters", choices=choices
    )
    assert bundle.to_dict()["layout"] == {"tensors": tensors, "modules": modules, "adapters": 2}
    assert bundle.adapters == (ONE, TWO)
    record = json.loads((tmp_path / "out" / "fusery.json").read_text())
    digests = [stocked.adapters.show(name)["digest"] for name in bundle.adapters]
    assert [adapter["digest"] for adapter in record["adapters"]] == digests
    for adapter in record["adapters"]:
        for file in adapter["files"]:
            found = digest_file(tmp_path / "out" / adapter["path"] / file["path"])
            assert found == (file["sha256"], file["size"])
    again = stocked.bundles.materialize(
        ["course_rec@1", "course_rec@2"], tmp_path / "out", target=target, content="adapters", choices=choices
    )
    assert again.existed
    place = str(tmp_path / "out")
    kept = [each for each in stocked.adapters.show("course_rec@2")["bundles"] if each["path"] == place]
    assert len(kept) == 1


def test_fused_models_and_one_adapter(stocked: Registry, tmp_path: Path) -> None:
    for target in ("gguf", "llamacpp", "ollama"):
        made = stocked.bundles.materialize("course_rec@1", tmp_path / target, target=target, content="fused")
        assert made.to_dict()["layout"] == {"tensors": 39, "modules": 0, "adapters": 0}
        assert {f"{ONE}.gguf", "README.md"} < {path.name for path in (tmp_path / target).iterdir()}
    assert (tmp_path / "ollama" / "Modelfile").read_text() == f"FROM ./{ONE}.gguf\n"
    stocked.bundles.materialize("course_rec@1", tmp_path / "one", target="ollama", content="adapters")
    text = (tmp_path / "one" / "Modelfile").read_text()
    assert text == f"FROM ./base.gguf\nADAPTER ./adapters/{ONE}.gguf\n"
    (tmp_path / "one" / "base.gguf").unlink()
    with pytest.raises(LayoutError):
        ollama.check(tmp_path / "one")


def test_a_target_holds_what_it_can(stocked: Registry, tmp_path: Path) -> None:
    for target, content in (("k8s", "fused"), ("gguf", "adapters")):
        with pytest.raises(BadInputError):
            stocked.bundles.materialize("course_rec@1", tmp_path / "out", target=target, content=content)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_one_bundle_is_where_its_adapter_is(stocked: Registry, tmp_path: Path) -> None:
    choices = Choices(base_name="org/Tiny-1M", location="s3://bucket/{name}")
    done = stocked.bundles.materialize_all(f"{tmp_path}/{{name}}", target="k8s", choices=choices)
    assert done.ok and len(done.made) == 2
    for name in (ONE, TWO):
        service = yaml.safe_load((tmp_path / name / "kserve" / "service.yaml").read_text())
        (adapter,) = service["spec"]["model"]["lora"]["adapters"]
        assert adapter == {"name": name, "uri": f"s3://bucket/{name}/adapters/{name}"}
    wrong = replace(choices, location="s3://bucket/x")
    with pytest.raises(BadInputError):
        stocked.bundles.materialize_all(f"{tmp_path}/{{name}}", target="k8s", choices=wrong)
