"""Each rule has bad cases that give its finding, and a good adapter gives none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from broken_adapters import (
    Spoil,
    declared_model,
    drop_from_config,
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
    stored_as,
    transposed,
    with_extra,
    without,
    write,
    zeroed,
)

from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.admission import Finding, verdict
from fusery.storage.errors import UnsafePathError

BAD: list[tuple[str, str, Spoil]] = [
    ("weights missing", "file_missing", remove("adapters.safetensors")),
    ("configuration missing", "file_missing", remove("adapter_config.json")),
    ("weights empty", "not_safetensors", write("adapters.safetensors", b"")),
    (
        "weights are a pickle",
        "weights_pickled",
        write("adapters.safetensors", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94."),
    ),
    ("weights are a zip", "weights_pickled", write("adapters.safetensors", b"PK\x03\x04" + b"\0" * 60)),
    (
        "weights are a pointer",
        "weights_pointer",
        write("adapters.safetensors", "version https://git-lfs\noid sha256:0\n"),
    ),
    ("configuration not JSON", "config_invalid", write("adapter_config.json", "{")),
    ("configuration a list", "config_invalid", write("adapter_config.json", "[]")),
    ("configuration with NaN", "config_invalid", write("adapter_config.json", '{"num_layers": NaN}')),
    ("configuration with a key twice", "config_invalid", write("adapter_config.json", '{"a": 1, "a": 2}')),
    ("rank is text", "config_invalid", edit_config(rank="eight")),
    ("rank zero", "config_invalid", edit_config(rank=0)),
    ("unknown method", "config_invalid", edit_config(fine_tune_type="ia3")),
    ("keys not a list", "config_invalid", edit_config(keys="auto")),
    ("metadata not JSON", "metadata_invalid", write("adapter_metadata.json", "not json")),
    (
        "metadata loss is text",
        "metadata_invalid",
        write("adapter_metadata.json", '{"final_val_loss": "low"}'),
    ),
    (
        "no adapter tensors",
        "no_tensors",
        edit_tensors(lambda _: {"model.norm.weight": np.ones(4, np.float32)}),
    ),
    ("a full weight in it", "unknown_tensor", with_extra("model.norm.weight")),
    ("PEFT names", "unknown_tensor", renamed(".lora_a", ".lora_A.weight")),
    ("DoRA without magnitudes", "method_mismatch", edit_config(fine_tune_type="dora")),
    (
        "magnitudes without DoRA",
        "method_mismatch",
        edit_tensors(lambda t: {**t, next(iter(t)).rpartition(".")[0] + ".m": np.ones(128, np.float32)}),
    ),
    ("other base by name", "base_mismatch", edit_config(model="org/another-model")),
    (
        "other base in the metadata",
        "base_mismatch",
        write("adapter_metadata.json", '{"base_model": "another-model"}'),
    ),
    ("module not in the base", "unknown_module", renamed("self_attn", "attention")),
    ("layer not in the base", "unknown_module", renamed("layers.3.", "layers.33.")),
    ("half a module", "incomplete_module", without("layers.3.self_attn.q_proj.lora_b")),
    ("the other half", "incomplete_module", without("layers.3.self_attn.q_proj.lora_a")),
    ("transposed factor", "shape_mismatch", transposed("layers.3.mlp.down_proj.lora_a")),
    ("rank differs", "rank_mismatch", edit_config(rank=16)),
    (
        "alpha instead of scale",
        "alpha_without_scale",
        lambda folder: (drop_from_config("scale")(folder), edit_config(alpha=16)(folder))[0],
    ),
    ("no scale", "scale_missing", drop_from_config("scale")),
    ("a layer missing", "layers_missing", without("layers.3.")),
    ("a module missing in one layer", "layers_missing", without("layers.3.mlp.up_proj")),
    (
        "a module of the keys missing",
        "layers_missing",
        lambda folder: (
            edit_config(keys=list(tiny_models.LINEAR))(folder),
            without("mlp.up_proj")(folder),
        )[0],
    ),
    ("more layers promised", "layers_missing", edit_config(num_layers=-1)),
    ("fewer layers promised", "layers_unpromised", edit_config(num_layers=1)),
    ("key that is a word", "key_placeholder", edit_config(keys=["auto"])),
    ("a NaN", "not_finite", poison(float("nan"))),
    ("an infinity", "not_finite", poison(float("-inf"))),
    ("all zero", "all_zero", zeroed(".lora_b")),
    ("scale zero", "all_zero", edit_config(scale=0.0)),
    ("factors of whole numbers", "dtype_unsupported", stored_as("I32", "layers.3.mlp.up_proj")),
    ("a factor without dimensions", "shape_mismatch", scalar("model.layers.3.mlp.up_proj.lora_a")),
    ("magnitudes of another size", "shape_mismatch", magnitudes(3)),
    ("some magnitudes missing", "incomplete_module", magnitudes(128, "q_proj")),
    ("full without tensors", "no_tensors", full()),
    ("full of another model", "unknown_tensor", full(nothing__here=np.ones((3, 3), np.float32))),
    ("full with a tensor of no module", "unknown_tensor", full(weight=np.ones((3, 3), np.float32))),
    (
        "full with a module that the base has not",
        "unknown_tensor",
        full(model__layers__9__mlp__up_proj__weight=np.ones((256, 128), np.float32)),
    ),
    (
        "full in another shape",
        "shape_mismatch",
        full(model__layers__3__mlp__up_proj__weight=np.ones((128, 256), np.float32)),
    ),
    (
        "full with a bias in another shape",
        "shape_mismatch",
        full(model__layers__3__mlp__up_proj__bias=np.ones(128, np.float32)),
    ),
    (
        "full with scales for a dense base",
        "shape_mismatch",
        full(model__layers__3__mlp__up_proj__scales=np.ones((256, 2), np.float32)),
    ),
    ("full and all zero", "all_zero", full(model__norm__weight=np.zeros(128, np.float32))),
    ("full with LoRA tensors", "method_mismatch", edit_config(fine_tune_type="full")),
    ("base in another script", "base_mismatch", edit_config(model="別的模型")),
    ("base of another version", "base_mismatch", edit_config(model="ti.ny")),
    ("NUL in the configuration", "config_invalid", edit_config(note="a\0b")),
    ("half of a character in a key", "config_invalid", edit_config(**{"\ud800": 1})),
    ("more iterations than anybody can count", "config_invalid", edit_config(iters=2**31)),
    ("absurd number of layers", "config_invalid", edit_config(num_layers=2**63)),
    ("absurd scale", "config_invalid", edit_config(scale=1e300)),
    ("data with a long name", "config_invalid", edit_config(data="d" * 501)),
    ("a great many keys", "config_invalid", edit_config(keys=["a"] * 10_001)),
    ("version of 400 digits", "metadata_invalid", metadata(version="9" * 400)),
    ("version of ten digits", "metadata_invalid", metadata(version="v1000000000")),
    ("negative version", "metadata_invalid", metadata(version=-3)),
    ("version zero", "metadata_invalid", metadata(version=0)),
    ("too many examples", "metadata_invalid", metadata(training_examples=2**63)),
    ("negative examples", "metadata_invalid", metadata(training_examples=-5)),
    ("dataset with a long name", "metadata_invalid", metadata(dataset="d" * 501)),
    ("adapter with a long name", "metadata_invalid", metadata(adapter_name="a" * 201)),
    ("NUL in the dataset", "metadata_invalid", metadata(dataset="a\0b")),
    ("half of a character in the dataset", "metadata_invalid", metadata(dataset="\ud800")),
]


@pytest.mark.parametrize(("code", "spoil"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
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
        {},
        {"rank": 1},
        {"num_layers": 1},
        {"num_layers": -1},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"keys": ["self_attn.q_proj"]},
    ],
    ids=str,
)
def test_a_good_adapter_has_no_findings(
    settings: dict[str, Any], tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter(**settings)
    assert look(folder, tiny_base, known_as=("tiny", declared_model(folder))) == []


@pytest.mark.parametrize("bits", [4, 8])
def test_a_good_adapter_on_a_quantised_base_has_no_findings(bits: int, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny", bits=bits)
    folder = tiny_models.make_adapter(tmp_path / "adapters", base)
    assert look(folder, base, known_as=("tiny", declared_model(folder))) == []


def old_generation(folder: Path) -> None:
    """What mlx-lm wrote before it adapted every linear layer."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"lora_layers": config.pop("num_layers"), "use_dora": False}
    del config["fine_tune_type"]
    path.write_text(json.dumps(config), encoding="utf-8")
    edit_tensors(lambda t: {k: v for k, v in t.items() if "q_proj" in k or "v_proj" in k})(folder)


def test_an_adapter_of_an_old_trainer_is_taken_with_a_note(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    old_generation(folder)
    (finding,) = look_as_declared(folder, tiny_base)
    assert (finding.code, finding.severity) == ("layers_unsaid", "info")


@pytest.mark.parametrize("fragment", ["layers.3.", "layers.2.self_attn.v_proj"])
def test_an_incomplete_adapter_of_an_old_trainer_is_refused(
    fragment: str, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    old_generation(folder)
    without(fragment)(folder)
    finding = next(f for f in look_as_declared(folder, tiny_base) if f.code == "layers_missing")
    assert fragment in finding.message
    assert "mlp" not in finding.message


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


def test_dora_has_no_findings(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    assert look_as_declared(make_adapter(fine_tune_type="dora"), tiny_base) == []


def test_a_full_fine_tune_has_no_findings(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    full(
        model__layers__2__mlp__up_proj__weight=np.ones((256, 128), np.float32),
        model__layers__3__mlp__up_proj__weight=np.ones((256, 128), np.float32),
        model__layers__3__mlp__up_proj__bias=np.ones(256, np.float32),
        model__layers__3__input_layernorm__weight=np.ones(128, np.float32),
        model__layers__3__self_attn__sinks=np.ones(4, np.float32),
    )(folder)
    assert look_as_declared(folder, tiny_base) == []


def test_a_full_fine_tune_does_not_replace_packed_weights(
    tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    base = tiny_models.make_base(tmp_path / "tiny", bits=4)
    folder = make_adapter(base=base)
    full(model__layers__3__mlp__up_proj__weight=np.ones((256, 128), np.float32))(folder)
    assert ("shape_mismatch", "error") in codes(look_as_declared(folder, base))


def test_a_snapshot_in_a_hub_s_cache_is_read_through_its_links(
    tiny_base: Path, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter(metadata={"version": 2})
    repository = tmp_path / "models--org--adapter"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    read = read_adapter_folder(snapshot)
    assert sorted(read.files) == [
        "adapter_config.json",
        "adapter_metadata.json",
        "adapters.safetensors",
    ]
    assert not any(path.is_symlink() for path in read.files.values())
    assert look_as_declared(snapshot, tiny_base) == []


def test_a_bad_file_in_a_hub_s_cache_is_called_by_its_name(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--adapter"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for blob, name in (("c0ffee", "adapter_config.json"), ("facade", "adapters.safetensors")):
        (repository / "blobs" / blob).write_bytes(b"{")
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    for problem in read_adapter_folder(snapshot).problems:
        assert problem.message.startswith(problem.file)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    (folder / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (folder / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UnsafePathError):
        read_adapter_folder(folder)


@pytest.mark.parametrize("written", ["v2", "2", " v2.0 ", 2])
def test_a_version_in_words_is_a_number(written: object, make_adapter: Callable[..., Path]) -> None:
    assert read_adapter_folder(make_adapter(metadata={"version": written})).metadata.version == 2


@pytest.mark.parametrize("name", [".", "..", "./", "../..", "/"])
def test_a_path_without_a_name_cannot_be_verified(
    name: str, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    edit_config(model=name)(folder)
    found = look(folder, tiny_base, known_as=("tiny", ".", "模型甲"), others={"..": "other"})
    assert codes(found) == {("base_unverified", "warning")}


def test_names_in_another_script_are_compared(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    edit_config(model="org/模型甲")(folder)
    assert look(folder, tiny_base, known_as=("tiny", "模型-甲")) == []
    finding = look(folder, tiny_base)[0]
    assert finding.code == "base_mismatch"
    assert "--name" not in finding.hint  # no base can be called so


def codes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.code, finding.severity) for finding in findings}


def test_one_zero_module_is_a_warning(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    zeroed(".lora_b", only_first=True)(folder)
    assert ("module_zero", "warning") in codes(
        look(folder, tiny_base, known_as=("tiny", declared_model(folder)))
    )


def test_a_base_given_by_path_cannot_be_verified(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    edit_config(model="/Users/ann/models/something")(folder)
    assert ("base_unverified", "warning") in codes(look(folder, tiny_base))


def test_another_registered_base_is_named(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    edit_config(model="mlx-community/Other-Model")(folder)
    finding = next(
        f for f in look(folder, tiny_base, others={"other-model": "other-model"}) if f.code == "base_mismatch"
    )
    assert finding.hint == (
        "give --base other-model; or --trained-on other-model, where tiny is the same at another precision"
    )


@pytest.mark.parametrize("spelling", ["tiny", "org/Tiny", "./models/tiny/", "TINY"])
def test_the_same_base_in_another_spelling_is_accepted(
    spelling: str, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    edit_config(model=spelling)(folder)
    assert look(folder, tiny_base) == []


@pytest.mark.parametrize(
    ("metadata", "declared", "code"),
    [
        ({"version": 2}, {"version": 1}, "metadata_conflict"),
        ({"final_val_loss": 0.5}, {"val_loss": 0.4}, "metadata_conflict"),
        ({"dataset": "a"}, {"dataset": "b"}, "metadata_conflict"),
        ({"training_examples": 5}, {"examples": 6}, "metadata_conflict"),
        ({"lora_rank": 64}, {}, "metadata_conflict"),
        ({"training_date": "2026-01-15"}, {"date": "20260116"}, "metadata_conflict"),
        ({"training_date": "last Tuesday"}, {}, "date_invalid"),
        ({"adapter_name": "other_v1_20260115"}, {"task": "course_rec"}, "metadata_conflict"),
        ({"lora_alpha": 20.0}, {}, "scale_is_alpha"),
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
    found = codes(look(folder, tiny_base, known_as=("tiny", declared_model(folder)), **declared))
    assert found == {(code, "warning")}


def test_metadata_that_agrees_gives_no_findings(tiny_base: Path, make_adapter: Callable[..., Path]) -> None:
    metadata = {
        "base_model": "org/tiny",
        "adapter_name": "course_rec_v2_20260115",
        "version": "v2",
        "training_date": "2026-01-15",
        "dataset": "courses",
        "training_examples": 120,
        "final_val_loss": 0.5,
        "lora_rank": 8,
        "lora_alpha": 160.0,
    }
    folder = make_adapter(metadata=metadata)
    declared = {"task": "course_rec", "version": 2, "val_loss": 0.5, "dataset": "courses", "examples": 120}
    assert look(folder, tiny_base, known_as=("tiny", declared_model(folder)), **declared) == []
