"""An adapter fuses onto every form of its base model, and onto no other model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from page_server import pages_of
from safetensors.numpy import load_file, save_file

from fusery.registry import BadInputError, Registry
from fusery.registry.fusion.base_forms import RELATED
from fusery.registry.fusion.request import FuseRequest
from fusery.web.auth import LocalAuth

ADAPTER = "mail_v1_20260115"


def onto(base: str | None, precision: str = "keep", **more: object) -> FuseRequest:
    return FuseRequest(precision, base=base, accept_loss=True, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of forms of one model, of another model, and of an adapter."""
    folder = tmp_path_factory.mktemp("forms")
    small = {"layers": 1, "layout": "mlx"}
    made = {
        name: tiny_models.make_base(folder / name, **small, **settings)
        for name, settings in {
            "dense": {},
            "half": {"dtype": "float16"},
            "four": {"bits": 4, "group_size": 32},
            "eight": {"bits": 8},
            "other": {"seed": 9},
            "other4": {"bits": 4, "seed": 9},
        }.items()
    }
    return {
        **made,
        "adapter": tiny_models.make_adapter(folder / "adapter", made["dense"], update=0.3, num_layers=1),
    }


def fill(registry: Registry, folders: dict[str, Path], *bases: str, own: str = "dense") -> Registry:
    for name in bases:
        registry.bases.add(folders[name], name=name)
    trained_on = "dense" if own != "dense" and "dense" in bases else None
    registry.adapters.register(
        folders["adapter"], base=own, task="mail", date="20260115", trained_on=trained_on
    )
    return registry


def test_a_model_on_another_form_has_the_bytes_of_one_registered_there(
    sqlite_registry: Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry = fill(sqlite_registry, folders, "dense", "four")
    made = registry.fused.fuse(ADAPTER, onto("four"))
    assert (made.base, made.adapter, made.adapter_base) == ("four", ADAPTER, "dense")
    assert (
        made.to_dict()["adapter_base"] == "dense"
        and "adapter_base" not in registry.fused.fuse(ADAPTER).to_dict()
    )
    with Registry.open(tmp_path / "there") as there:
        there.init()
        same = fill(there, folders, "four", own="four").fused.fuse(ADAPTER, onto(None))
    assert (same.key, same.digest) == (made.key, made.digest)
    assert [file.sha256 for file in same.files] == [file.sha256 for file in made.files]


@pytest.mark.parametrize(
    ("own", "form"),
    [("dense", "four"), ("four", "dense"), ("half", "dense"), ("four", "eight"), ("dense", "dense")],
)
def test_every_form_is_accepted(
    sqlite_registry: Registry, folders: dict[str, Path], own: str, form: str
) -> None:
    # Two quantised forms are related by the model that both were made from.
    registry = fill(sqlite_registry, folders, "dense", *{own, form} - {"dense"}, own=own)
    before = len(registry.upkeep.log(action=RELATED))
    fused = registry.fused.fuse(ADAPTER, onto(form))
    assert (fused.base, fused.adapter_base) == (form, None if own == form else own)
    # The comparisons were made when the base models were added.
    assert len(registry.upkeep.log(action=RELATED)) == before


def test_another_model_is_refused(
    sqlite_registry: Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in folders["half"].iterdir():
        (tuned / file.name).write_bytes(file.read_bytes())
    weights = load_file(tuned / "model.safetensors")
    module = "model.layers.0.mlp.up_proj.weight"
    noise = np.random.default_rng(3).standard_normal(weights[module].shape)
    weights[module] += (0.01 * weights[module].std() * noise).astype(np.float16)
    save_file(weights, tuned / "model.safetensors", metadata={"format": "mlx"})
    registry = fill(sqlite_registry, {**folders, "tuned": tuned}, "dense", "four", "other", "other4", "tuned")
    for base, named in (("other", "numbers of"), ("other4", "numbers of"), ("tuned", module)):
        with pytest.raises(BadInputError) as caught:
            registry.fused.fuse(ADAPTER, onto(base))
        assert base in caught.value.message and "dense" in caught.value.message
        assert named in caught.value.message and "--base" in str(caught.value.hint)
    assert registry.fused.list() == []


def test_all_that_is_known_of_an_adapter_knows_its_other_form(
    sqlite_registry: Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    registry = fill(sqlite_registry, folders, "dense", "four")
    made = registry.fused.fuse(ADAPTER, onto("four"))
    shown = registry.adapters.show(ADAPTER).fused
    assert [(line.key, line.adapter_base) for line in shown or ()] == [(made.key, "dense")]
    [explained] = registry.fused.explain(ADAPTER, onto("four")).models
    assert (explained.key, explained.status) == (made.key, "hit")
    assert explained.inputs is not None and explained.inputs.base.name == "four"
    assert registry.fused.formats(ADAPTER, FuseRequest(base="four")).base == "four"
    for request in (FuseRequest(recipe=made.key, accept_loss=True), onto("four")):
        assert registry.fused.fuse(ADAPTER, request).cached
    assert [each.verdict for each in registry.upkeep.audit_rebuild((made.key,)).rebuilt] == ["bit-identical"]
    names = {node.name for node in registry.provenance.lineage(made.key).nodes}
    assert {"dense", "four", ADAPTER} <= names
    registry.aliases.set("mail#prod", ADAPTER)
    [entry] = [entry for entry in registry.cache.contents().entries if entry.key == made.key]
    assert entry.aliases == ("mail#prod",)
    bundle = registry.bundles.materialize(ADAPTER, tmp_path / "model", request=onto("four"))
    assert bundle.fused == made.digest
    registry.bundles.materialize(
        ADAPTER, tmp_path / "apart", target="adapters", request=FuseRequest(base="four")
    )
    record = json.loads((tmp_path / "apart" / "fusery.json").read_text(encoding="utf-8"))
    assert record["provenance"]["base"]["name"] == "four"
    with Registry.open(tmp_path / "there") as there:
        there.init()
        registry.exchange.push(made.key, there.workspace.settings.home)
        assert there.fused.list()[0].adapter_base == "dense"


def test_adapters_of_two_forms_are_added_on_one(sqlite_registry: Registry, folders: dict[str, Path]) -> None:
    registry = fill(sqlite_registry, folders, "dense", "four")
    registry.adapters.register(folders["adapter"], base="four", task="news", trained_on="dense")
    extras = (("news@1", 0.5),)
    with pytest.raises(BadInputError):
        registry.fused.fuse(ADAPTER, onto(None, extras=extras))
    assert registry.fused.fuse(ADAPTER, onto("four", extras=extras)).base == "four"


def test_on_a_server_s_registry(
    registry: Registry, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    fill(registry, folders, "dense", "four", "other")
    door = LocalAuth("anna")
    with pages_of(registry, door) as address, Registry.open(address, token=door.key) as remote:
        made = remote.fused.fuse("mail@1", onto("four"))
        assert (made.base, made.adapter_base) == ("four", "dense")
        with pytest.raises(BadInputError):
            remote.fused.fuse("mail@1", onto("other"))
        assert remote.fused.list()[0].key == made.key
