"""A PEFT folder in the registry: one adapter, known by its own bytes, with mlx-lm's form computed where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from peft_folders import edit_config, edit_tensors, make_peft
from sqlalchemy import func, select

from fusery.registry import Registry, tables
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.admission.code import AdmissionError
from fusery.registry.errors import BadInputError
from fusery.storage.digest import digest_file
from fusery.storage.errors import FormatError


@pytest.fixture
def with_base(registry: Registry, tiny_base: Path) -> Iterator[Registry]:
    registry.bases.add(tiny_base, name="tiny")
    yield registry


def test_the_registered_bytes_are_the_adapter(with_base: Registry, tiny_base: Path, tmp_path: Path) -> None:
    folder = make_peft(tmp_path / "peft", tiny_base, rank=4, lora_alpha=6, use_rslora=True)
    view = with_base.adapters.register(folder, base="tiny", task="one")
    assert (view["method"], view["rank"], view["alpha"], view["scale"]) == ("lora", 4, 6.0, 3.0)
    assert (view["layers"], view["target_modules"]) == (4, ["self_attn.q_proj", "self_attn.v_proj"])
    shown = with_base.adapters.show("one@1")
    files = {file["path"]: file["sha256"] for file in shown["files"]}
    assert files == {path.name: digest_file(path)[0] for path in folder.iterdir()}
    assert shown["format"] == "peft"
    assert [rendering["format"] for rendering in shown["renderings"]] == ["mlx"]
    assert shown["training"]["peft_type"] == "LORA"
    assert with_base.adapters.register(folder, base="tiny", task="one").created is False
    assert with_base.upkeep.audit().ok


def test_fusing_it_is_fusing_its_rendering(with_base: Registry, tiny_base: Path, tmp_path: Path) -> None:
    folder = make_peft(
        tmp_path / "peft",
        tiny_base,
        ranks={"model.layers.0.self_attn.q_proj": 8},
        alpha_pattern={"v_proj": 5},
        dora=True,
    )
    with_base.adapters.register(folder, base="tiny", task="peft")
    read = read_adapter_folder(folder)
    with_base.adapters.register(read.files["adapters.safetensors"].parent, base="tiny", task="mlx")
    fused = [with_base.fused.fuse(reference).path for reference in ("peft@1", "mlx@1")]
    theirs, ours = (tiny_models.read_tensors(path) for path in fused)
    assert ours == theirs
    again = with_base.fused.fuse("peft@1")
    assert again.cached
    difference = with_base.adapters.diff("peft@1", "mlx@1")
    assert min(module["cosine"] for module in difference["modules"]) > 0.999999


def test_a_rendering_that_came_out_differently_is_not_fused(
    with_base: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    with_base.adapters.register(make_peft(tmp_path / "peft", tiny_base), base="tiny", task="one")
    with with_base.workspace.database.write() as session:
        row = session.scalars(select(tables.AdapterRenderingRow)).one()
        row.digest = "0" * 64
    with pytest.raises(FormatError):
        with_base.fused.fuse("one@1")


def rewrite(change: Callable[[dict[str, tiny_models.Raw]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, change)


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


def add(name: str, *shape: int) -> Callable[[Path], None]:
    return rewrite(lambda raw: raw.update({name: ("F32", np.ones(shape, np.float32))}))


def pop(raw: dict[str, tiny_models.Raw], *names: str) -> None:
    for name in names:
        del raw[name]


Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
SPOILS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "another method": ("peft_method", config(peft_type="IA3")),
    "pissa": ("peft_base_changed", config(init_lora_weights="pissa_niter_16")),
    "an unknown start": ("peft_base_changed", config(init_lora_weights="magic")),
    "repeated layers": ("peft_base_changed", config(layer_replication=[[0, 2], [1, 3]])),
    "kasa": ("peft_base_changed", config(kasa_config={"beta": 1})),
    "modules to save": ("peft_full_modules", config(modules_to_save=["lm_head"])),
    "trained tokens": ("peft_full_modules", config(trainable_token_indices=[1, 2])),
    "a whole embedding": ("peft_full_modules", add("base_model.model.model.embed_tokens.weight", 320, 64)),
    "biases": ("peft_bias", config(bias="lora_only")),
    "lora bias": ("peft_bias", config(lora_bias=True)),
    "bias tensors": ("peft_bias", add(f"{Q0}.lora_B.bias", 128)),
    "qalora": ("peft_variant", config(use_qalora=True, qalora_group_size=1)),
    "monteclora": ("peft_variant", config(monteclora_config={"num_samples": 3})),
    "parameters": ("peft_experts", config(target_parameters=["experts.up_proj"])),
    "qalora with dora": ("peft_variant", config(use_qalora=True, qalora_group_size=16, use_dora=True)),
    "qalora in groups of none": ("peft_variant", config(use_qalora=True, qalora_group_size=[16])),
    "a field from the future": ("peft_unknown_field", config(use_hyperlora=True)),
    "a convolution": ("peft_unknown_tensor", add("base_model.model.conv.lora_A.weight", 4, 3, 3, 3)),
    "no prefix": ("peft_unknown_tensor", add("model.layers.0.self_attn.q_proj.lora_A.weight", 4, 128)),
    "a diagonal": ("peft_unknown_tensor", add(f"{Q0}.lora_diag", 4)),
    "both kinds of factors": ("peft_unknown_tensor", add(f"{Q0}.lora_embedding_A", 4, 128)),
    "a bad expression": ("peft_pattern", config(alpha_pattern={"(": 3})),
    "a look-around": ("peft_pattern", config(rank_pattern={"(?=q)q_proj": 3})),
    "another rank": ("peft_rank_mismatch", config(r=8)),
    "half of a module": ("incomplete_module", rewrite(lambda raw: pop(raw, f"{Q0}.lora_B.weight"))),
    "a module less": (
        "peft_modules_missing",
        rewrite(lambda raw: pop(raw, f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight")),
    ),
    "more promised by an expression": ("peft_modules_missing", config(target_modules=r".*\.(q|k|v)_proj")),
    "another model's": ("base_mismatch", config(base_model_name_or_path="org/other")),
    "not finite": ("not_finite", rewrite(lambda raw: raw[f"{Q0}.lora_A.weight"][1].fill(np.nan))),
    "no effect": ("all_zero", config(lora_alpha=0)),
    "a rank of words": ("config_invalid", config(r="many")),
    "patterns that are none": ("config_invalid", config(rank_pattern=["q_proj"])),
    "no JSON": ("config_invalid", lambda folder: (folder / "adapter_config.json").write_text("{") and None),
    "no configuration": ("file_missing", lambda folder: (folder / "adapter_config.json").unlink()),
    "no safetensors": (
        "not_safetensors",
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 64) and None,
    ),
}


@pytest.fixture(scope="module")
def untouched(module_registry: Registry, tiny_base: Path) -> Registry:
    module_registry.bases.add(tiny_base, name="tiny")
    return module_registry


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_cannot_be_carried_over_is_refused_by_name(
    untouched: Registry, tiny_base: Path, tmp_path: Path, spoil: str
) -> None:
    code, change = SPOILS[spoil]
    folder = make_peft(tmp_path / "peft", tiny_base, base_model_name_or_path="tiny")
    change(folder)
    with pytest.raises(AdmissionError) as caught:
        untouched.adapters.register(folder, base="tiny", task="one")
    errors = [finding for finding in caught.value.findings if finding.severity == "error"]
    assert code in {finding.code for finding in errors}, [finding.to_dict() for finding in errors]
    assert all(finding.message and "\n" not in finding.message for finding in errors)
    with untouched.workspace.database.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.AdapterRow)) == 0
        assert session.scalar(select(func.count()).select_from(tables.IntentRow)) == 0
    assert [finding.code for finding in untouched.adapters.check(folder, base="tiny", task="one")]


@pytest.mark.parametrize(
    ("module", "kind", "shapes"),
    [
        ("lm_head", "lora_{}.weight", ((4, 128), (320, 4))),
        ("model.embed_tokens", "lora_embedding_{}", ((4, 320), (128, 4))),
    ],
)
def test_factors_of_a_tied_end_are_refused(
    registry: Registry, tmp_path: Path, module: str, kind: str, shapes: tuple[tuple[int, int], ...]
) -> None:
    base = tiny_models.make_base(tmp_path / "tied", tied=True)
    registry.bases.add(base, name="tied")
    folder = make_peft(tmp_path / "peft", base, base_model_name_or_path="tied")
    for part, shape in zip("AB", shapes, strict=True):
        add(f"base_model.model.{module}.{kind.format(part)}", *shape)(folder)
    config(target_modules=["q_proj", "v_proj", module.rpartition(".")[2]])(folder)
    found = registry.adapters.check(folder, base="tied", task="one")
    assert [each.code for each in found if each.severity == "error"] == ["peft_tied_embedding"]


@pytest.mark.parametrize(("method", "hint"), [("VERA", "save_as_lora"), ("BEFT", "have biases, merge")])
def test_another_method_is_named_before_its_base(
    with_base: Registry, tiny_base: Path, tmp_path: Path, method: str, hint: str
) -> None:
    folder = make_peft(tmp_path / "peft", tiny_base, base_model_name_or_path=None, peft_type=method)
    with pytest.raises(BadInputError) as caught:
        with_base.adapters.check(folder)
    assert method in caught.value.message and hint in str(caught.value.hint)


def test_good_ones_give_no_finding(with_base: Registry, tiny_base: Path, tmp_path: Path) -> None:
    good: dict[str, dict[str, Any]] = {
        "plain": {},
        "dora": {"dora": True},
        "some layers": {"layers": (1, 3)},
        "an expression": {"target_modules": r"model\.layers\.\d+\.self_attn\.(q|v)_proj"},
        "all linear layers": {
            "modules": [name.rpartition(".")[2] for name in tiny_models.LINEAR],
            "target_modules": "all-linear",
        },
        "excluded": {"layers": (0, 1), "layers_to_transform": None, "exclude_modules": r".*layers\.[23]\..*"},
        "a layer pattern": {"layers": (0, 1), "layers_pattern": "layers"},
        "gaussian": {"init_lora_weights": "gaussian"},
        "eva": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        "half precision": {"dtype": "bfloat16"},
        "tied if it were": {"ensure_weight_tying": True},
    }
    for name, settings in good.items():
        folder = make_peft(tmp_path / name, tiny_base, base_model_name_or_path="tiny", **settings)
        findings = with_base.adapters.check(folder, base="tiny", task="one", dataset="d")
        assert {finding.code for finding in findings} <= {"attention_only"}, name


def test_the_real_ones_are_read() -> None:
    for path in sorted(peft_folders.REAL.glob("*/adapter_config.json")):
        folder = read_adapter_folder(path.parent)
        assert folder.modules
        assert not folder.problems
        assert not [remark for remark in folder.remarks if remark.severity == "error"]
