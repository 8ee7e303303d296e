"""Each rule has bad cases that give its finding, and a good adapter gives none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from bad_adapters import both
from broken_adapters import (
    Spoil,
    declared_model,
    edit_config,
    edit_tensors,
    full,
    look,
    look_as_declared,
    magnitudes,
    metadata,
    poison,
    remove,
    renamed,
    scalar,
    without,
    write,
)

from fusery.registry.adapters import Finding, verdict
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.storage.errors import UnsafePathError

LINEAR = list(tiny_models.LINEAR)
ONES = np.ones((256, 128), np.float32)
# Beside those of `bad_adapters`, which `test_codes.py` holds.
BAD: list[tuple[str, Spoil]] = [
    ("file_missing", remove("adapters.safetensors")),
    ("file_missing", remove("adapter_config.json")),
    ("not_safetensors", write("adapters.safetensors", b"PK\x03\x04" + b"\0" * 60)),
    *(("config_invalid", write("adapter_config.json", text)) for text in ("[]", '{"a": 1, "a": 2}')),
    ("config_invalid", write("adapter_config.json", '{"num_layers": NaN}')),
    *(("config_invalid", edit_config(rank=value)) for value in ("eight", 0)),
    ("config_invalid", edit_config(fine_tune_type="ia3")),
    *(("config_invalid", edit_config(keys=value)) for value in ("auto", ["a"] * 10_001)),
    *(("config_invalid", edit_config(**entry)) for entry in ({"note": "a\0b"}, {"\ud800": 1})),
    ("config_invalid", edit_config(num_layers=2**63)),
    ("config_invalid", edit_config(scale=1e300)),
    ("config_invalid", edit_config(data="d" * 501)),
    ("config_invalid", metadata(final_val_loss="low")),
    *(("config_invalid", metadata(version=value)) for value in ("9" * 400, "v1000000000", 0)),
    *(("config_invalid", metadata(training_examples=value)) for value in (2**63, -5)),
    *(("config_invalid", metadata(dataset=value)) for value in ("d" * 501, "a\0b", "\ud800")),
    ("config_invalid", metadata(adapter_name="a" * 201)),
    ("no_tensors", full()),
    ("unknown_tensor", renamed(".lora_a", ".lora_A.weight")),
    ("unknown_tensor", full(weight=np.ones((3, 3), np.float32))),
    ("unknown_tensor", full(model__layers__9__mlp__up_proj__weight=ONES)),
    ("method_mismatch", edit_config(fine_tune_type="full")),
    *(("base_mismatch", edit_config(model=name)) for name in ("別的模型", "ti.ny")),
    ("base_mismatch", metadata(base_model="another-model")),
    ("unknown_module", renamed("layers.3.", "layers.33.")),
    ("incomplete_module", without("layers.3.self_attn.q_proj.lora_a")),
    ("shape_mismatch", scalar("model.layers.3.mlp.up_proj.lora_a")),
    ("shape_mismatch", magnitudes(3)),
    ("shape_mismatch", full(model__layers__3__mlp__up_proj__weight=ONES.T)),
    ("shape_mismatch", full(model__layers__3__mlp__up_proj__bias=np.ones(128, np.float32))),
    ("shape_mismatch", full(model__layers__3__mlp__up_proj__scales=np.ones((256, 2), np.float32))),
    *(("layers_missing", without(part)) for part in ("layers.3.", "layers.3.mlp.up_proj")),
    ("layers_missing", both(edit_config(keys=LINEAR), without("mlp.up_proj"))),
    ("layers_missing", edit_config(num_layers=-1)),
    ("not_finite", poison(float("-inf"))),
    ("all_zero", edit_config(scale=0.0)),
    ("all_zero", full(model__norm__weight=np.zeros(128, np.float32))),
]


@pytest.mark.parametrize(("code", "spoil"), BAD)
def test_a_bad_adapter_is_a_named_error(
    code: str, spoil: Spoil, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter(num_layers=2)
    spoil(folder)
    findings = look(folder, tiny_base)
    assert code in {finding.code for finding in findings if finding.severity == "error"}
    assert verdict(findings) == "fail"
    assert all("\n" not in finding.message for finding in findings)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 1, "num_layers": 1},
        {"num_layers": -1, "dtype": "bfloat16"},
        {"dtype": "float16", "keys": ["mlp.up_proj"]},
        {"fine_tune_type": "dora"},
        {"bits": 4},
    ],
    ids=str,
)
def test_a_good_adapter_has_no_findings(settings: dict[str, Any], tiny_base: Path, tmp_path: Path) -> None:
    bits = settings.get("bits")
    base = tiny_models.make_base(tmp_path / "tiny", bits=bits) if bits else tiny_base
    made = {key: value for key, value in settings.items() if key != "bits"}
    assert look_as_declared(tiny_models.make_adapter(tmp_path / "adapters", base, **made), base) == []


def old_generation(folder: Path) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"lora_layers": config.pop("num_layers"), "use_dora": False}
    del config["fine_tune_type"]
    path.write_text(json.dumps(config), encoding="utf-8")
    edit_tensors(lambda t: {k: v for k, v in t.items() if "q_proj" in k or "v_proj" in k})(folder)


def test_an_adapter_of_an_old_trainer_is_refused_if_it_is_incomplete(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    old_generation(folder)
    assert codes(look_as_declared(folder, tiny_base)) == {
        ("layers_undeclared", "info"),
        ("attention_only", "info"),
    }
    for fragment in ("layers.2.self_attn.v_proj", "layers.3."):
        without(fragment)(folder)
        finding = next(f for f in look_as_declared(folder, tiny_base) if f.code == "layers_missing")
        assert fragment in finding.message and "mlp" not in finding.message


def test_a_convolution_of_the_base_is_not_promised(tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny")
    stored = tiny_models.read_tensors(base / "model.safetensors")
    tensors = {
        name: (dtype, np.frombuffer(data, np.uint16).reshape(shape))
        for name, (dtype, shape, data) in stored.items()
    }
    for index in range(4):
        name = f"model.layers.{index}.linear_attn.conv1d.weight"
        tensors[name] = ("BF16", np.ones((128, 4, 1), np.uint16))
    tiny_models.write_tensors(base / "model.safetensors", tensors, {"format": "mlx"})
    folder = tiny_models.make_adapter(tmp_path / "adapters", base)
    assert look_as_declared(folder, base) == []


def test_a_full_fine_tune_has_no_findings(
    tiny_base: Path, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    full(
        model__layers__2__mlp__up_proj__weight=ONES,
        model__layers__3__mlp__up_proj__weight=ONES,
        model__layers__3__mlp__up_proj__bias=np.ones(256, np.float32),
        model__layers__3__input_layernorm__weight=np.ones(128, np.float32),
        model__layers__3__self_attn__sinks=np.ones(4, np.float32),
    )(folder)
    assert look_as_declared(folder, tiny_base) == []
    partial = make_adapter("partial")
    full(model__layers__3__mlp__up_proj__weight=ONES)(partial)
    assert codes(look_as_declared(partial, tiny_base)) == {("full_incomplete", "warning")}
    base = tiny_models.make_base(tmp_path / "tiny", bits=4)
    packed = make_adapter("packed", base=base)
    full(model__layers__3__mlp__up_proj__weight=ONES)(packed)
    assert ("shape_mismatch", "error") in codes(look_as_declared(packed, base)), "packed weights stay"


def test_a_snapshot_in_a_hub_s_cache_is_read_through_its_links(
    tiny_base: Path, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter(metadata={"version": " v2.0 "})
    repository = tmp_path / "models--org--adapter"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    read = read_adapter_folder(snapshot)
    assert sorted(read.files) == ["adapter_config.json", "adapter_metadata.json", "adapters.safetensors"]
    assert not any(path.is_symlink() for path in read.files.values())
    assert read.metadata.version == 2
    assert look_as_declared(snapshot, tiny_base) == []


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    (folder / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (folder / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnsafePathError):
        read_adapter_folder(folder)


def test_the_base_is_compared_by_name(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    def found(model: str, **options: Any) -> set[tuple[str, str]]:
        folder = make_adapter()
        edit_config(model=model)(folder)
        return codes(look(folder, tiny_base, **options))

    for spelling in ("tiny", "org/Tiny", "./models/tiny/", "TINY"):
        assert found(spelling) == set()
    assert found("org/模型甲", all_names=("tiny", "模型-甲")) == set()
    assert found("org/模型甲") == {("base_mismatch", "error")}
    assert found("/Users/ann/models/something") == {("base_unverified", "warning")}
    for name in (".", "..", "./", "../..", "/"):
        known = {"all_names": ("tiny", ".", "模型甲"), "others": {"..": "other"}}
        assert found(name, **known) == {("base_unverified", "warning")}


def test_another_registered_base_is_named(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    edit_config(model="mlx-community/Other-Model")(folder)
    [finding] = look(folder, tiny_base, others={"other-model": "other-model"})
    assert finding.code == "base_mismatch"
    assert "--base other-model" in finding.hint and "--trained-on other-model" in finding.hint


def codes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.code, finding.severity) for finding in findings}


@pytest.mark.parametrize(
    ("metadata", "declared", "code"),
    [
        ({"version": 2}, {"version": 1}, "metadata_conflict"),
        ({"final_val_loss": 0.5}, {"val_loss": 0.4}, "metadata_conflict"),
        ({"dataset": "a"}, {"dataset": "b"}, "metadata_conflict"),
        ({"training_examples": 5}, {"examples": 6}, "metadata_conflict"),
        ({"lora_rank": 64}, {}, "metadata_conflict"),
        ({"training_date": "2026-01-15"}, {"date": "20260116"}, "metadata_conflict"),
        ({"training_date": "last Tuesday"}, {}, "date_implausible"),
        ({"adapter_name": "other_v1_20260115"}, {"task": "course_rec"}, "metadata_conflict"),
        ({"lora_alpha": 20.0}, {}, "alpha_conflict"),
        ({"lora_alpha": 30.0}, {}, "alpha_conflict"),
        ({}, {"alpha": 16.0}, "alpha_conflict"),
    ],
    ids=str,
)
def test_contradictions_are_warnings(
    metadata: dict[str, Any],
    declared: dict[str, Any],
    code: str,
    tiny_base: Path,
    make_adapter: Callable[..., Path],
) -> None:
    folder = make_adapter(metadata=metadata)
    found = codes(look(folder, tiny_base, all_names=("tiny", declared_model(folder)), **declared))
    assert found == {(code, "warning")}


def test_metadata_that_agrees_gives_no_findings(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    metadata: dict[str, Any] = {
        "base_model": "org/tiny",
        "adapter_name": "course_rec_v2_20260115",
        "version": "v2",
    }
    metadata |= {"training_date": "2026-01-15", "dataset": "courses", "training_examples": 120}
    folder = make_adapter(metadata={**metadata, "final_val_loss": 0.5, "lora_rank": 8, "lora_alpha": 160.0})
    declared = {"task": "course_rec", "version": 2, "val_loss": 0.5, "dataset": "courses", "examples": 120}
    assert look(folder, tiny_base, all_names=("tiny", declared_model(folder)), **declared) == []
