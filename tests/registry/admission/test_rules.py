"""Each rule has bad cases that give its finding, and a good adapter gives none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinymodels

from fusery.registry.adapter_folder import read_adapter_folder
from fusery.registry.admission import BaseFacts, Candidate, Declared, Finding, examine, verdict
from fusery.registry.architecture import read_architecture
from fusery.registry.names import parse_date

Spoil = Callable[[Path], None]


def look(
    folder: Path,
    base: Path,
    *,
    known_as: tuple[str, ...] = ("tiny",),
    others: dict[str, str] | None = None,
    **declared: Any,
) -> list[Finding]:
    facts = BaseFacts("tiny", read_architecture(base), frozenset(known_as), others or {})
    return examine(Candidate(read_adapter_folder(folder), facts, Declared(**declared)))


def edit_config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            if key in ("rank", "scale", "alpha", "keys"):
                config["lora_parameters"][key] = value
            else:
                config[key] = value
        path.write_text(json.dumps(config), encoding="utf-8")

    return spoil


def drop_from_config(*keys: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            config["lora_parameters"].pop(key, None)
        path.write_text(json.dumps(config), encoding="utf-8")

    return spoil


def edit_tensors(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapters.safetensors"
        stored = {
            name: np.frombuffer(data, np.float32).reshape(shape).copy()
            for name, (_, shape, data) in tinymodels.read_tensors(path).items()
        }
        tinymodels.write_tensors(path, {name: ("F32", value) for name, value in change(stored).items()}, None)

    return spoil


def write(name: str, content: bytes | str) -> Spoil:
    def spoil(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)

    return spoil


def poison(value: float) -> Spoil:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        next(iter(tensors.values())).flat[3] = value
        return tensors

    return edit_tensors(change)


def zeroed(suffix: str, only_first: bool = False) -> Spoil:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [name for name in tensors if name.endswith(suffix)]
        for name in names[:1] if only_first else names:
            tensors[name][:] = 0
        return tensors

    return edit_tensors(change)


def without(fragment: str) -> Spoil:
    return edit_tensors(
        lambda tensors: {name: value for name, value in tensors.items() if fragment not in name}
    )


def renamed(old: str, new: str) -> Spoil:
    return edit_tensors(lambda tensors: {name.replace(old, new): value for name, value in tensors.items()})


def transposed(fragment: str) -> Spoil:
    return edit_tensors(
        lambda tensors: {
            name: np.ascontiguousarray(value.T) if fragment in name else value
            for name, value in tensors.items()
        }
    )


def with_extra(name: str) -> Spoil:
    return edit_tensors(lambda tensors: {**tensors, name: np.ones((4, 4), np.float32)})


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


BAD: list[tuple[str, str, Spoil]] = [
    ("weights missing", "file_missing", remove("adapters.safetensors")),
    ("configuration missing", "file_missing", remove("adapter_config.json")),
    ("weights empty", "not_safetensors", write("adapters.safetensors", b"")),
    (
        "weights are a pickle",
        "not_safetensors",
        write("adapters.safetensors", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94."),
    ),
    ("weights are a zip", "not_safetensors", write("adapters.safetensors", b"PK\x03\x04" + b"\0" * 60)),
    (
        "weights are text",
        "not_safetensors",
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
        "scale_missing",
        lambda folder: (drop_from_config("scale")(folder), edit_config(alpha=16)(folder))[0],
    ),
    ("no scale", "scale_missing", drop_from_config("scale")),
    ("a layer missing", "layers_missing", without("layers.3.")),
    ("a module missing", "layers_missing", without("mlp.up_proj")),
    ("more layers promised", "layers_missing", edit_config(num_layers=-1)),
    ("fewer layers promised", "layers_unpromised", edit_config(num_layers=1)),
    ("key that matches nothing", "unmatched_key", edit_config(keys=["auto"])),
    ("a NaN", "not_finite", poison(float("nan"))),
    ("an infinity", "not_finite", poison(float("-inf"))),
    ("all zero", "all_zero", zeroed(".lora_b")),
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
    base = tinymodels.make_base(tmp_path / "tiny", bits=bits)
    folder = tinymodels.make_adapter(tmp_path / "adapters", base)
    assert look(folder, base, known_as=("tiny", declared_model(folder))) == []


def declared_model(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["model"])


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
    assert finding.hint == "give --base other-model"


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
        ({"training_date": "2026-01-15"}, {"date": parse_date("20260116")}, "metadata_conflict"),
        ({"training_date": "last Tuesday"}, {}, "metadata_conflict"),
        ({"adapter_name": "other_v1_20260115"}, {"task": "course_rec"}, "metadata_conflict"),
        ({"lora_alpha": 20.0}, {}, "alpha_conflict"),
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
