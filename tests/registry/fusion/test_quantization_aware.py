"""Adapters that were trained through a quantiser: fused to what was trained, and measured against it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adapters_by_class
import fuse_cases
import numpy as np
import pytest
import tiny_models
from lora_layers import mx
from peft_folders import apart, make_peft
from quantiser_trainer import train_through

from fusery.integrations.sync.folders import write_adapter
from fusery.registry import FuseRequest, Registry, Reporter
from fusery.registry.bundles import Choices
from fusery.registry.bundles.serving_plan import plan_serving
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.research.models import LoadedModel
from fusery.research.quantized_training import _quantised, make_layers

TOKENS = np.array([[72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 33]])
SAID = {"val_loss": 1.0, "dataset": "greetings"}


def logits(model: Path) -> np.ndarray[Any, Any]:
    return LoadedModel.load(model, numpy=False).run(TOKENS.astype(np.int32))


def describe(adapter: Path, entry: object) -> None:
    file = adapter / "adapter_config.json"
    document = json.loads(file.read_text())
    document.pop("quantization_aware", None)
    file.write_text(json.dumps(document if entry is None else document | {"quantization_aware": entry}))


def trained(
    registry: Registry, folder: Path, name: str, *, bits: int | None, through: tuple[int, int], task: str
) -> tuple[str, np.ndarray[Any, Any]]:
    base = tiny_models.make_base(folder / name, dtype="float32", bits=bits, group_size=through[1], layers=2)
    registry.bases.add(base, name=name)
    expected = train_through(base, folder / task, TOKENS, bits=through[0], group_size=through[1])
    added = registry.adapters.register(folder / task, base=name, task=task, **SAID)
    assert {finding.code for finding in added.findings if finding.severity != "info"} == set()
    assert "quantization_aware" in {finding.code for finding in added.findings}
    return added.name, expected


@pytest.fixture(scope="module")
def packed(module_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An adapter trained through the format of its base `packed`, in `module_registry`, and its folder."""
    folder = tmp_path_factory.mktemp("packed")
    name, _ = trained(module_registry, folder, "packed", bits=4, through=(4, 64), task="qat")
    return name, folder / "qat"


@pytest.mark.parametrize("through", [(4, 64), (3, 32)])
def test_keep_what_was_trained(sqlite_registry: Registry, tmp_path: Path, through: tuple[int, int]) -> None:
    name, expected = trained(
        sqlite_registry, tmp_path, "packed", bits=through[0], through=through, task="qat"
    )
    fused = sqlite_registry.fused.fuse(name)
    assert (fused.precision, fused.recipe["quantization_aware"]["bits"]) == ("keep", through[0])
    assert (fused.fidelity.verdict, fused.fidelity.retained, fused.fidelity.noise) == ("PASS", 1.0, 0.0)
    assert apart(logits(fused.path), expected) < 1e-4
    # Without the entry, fidelity is measured against unrounded weights, and the same bytes retain less.
    describe(tmp_path / "qat", None)
    plain = sqlite_registry.adapters.register(tmp_path / "qat", base="packed", task="plain", **SAID).name
    other = sqlite_registry.fused.fuse(plain, FuseRequest("keep", accept_loss=True))
    assert other.fidelity.retained < 0.9
    weights = [tiny_models.read_tensors(made.path / "model.safetensors") for made in (fused, other)]
    assert weights[0] == weights[1]


def test_on_a_dense_base_auto_quantises_as_it_was_trained(sqlite_registry: Registry, tmp_path: Path) -> None:
    name, _ = trained(sqlite_registry, tmp_path, "dense", bits=None, through=(4, 32), task="qat")
    fused = sqlite_registry.fused.fuse(name)
    assert fused.recipe["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert (fused.fidelity.verdict, fused.fidelity.retained) == ("PASS", 1.0)
    asked = sqlite_registry.fused.fuse(name, FuseRequest(quantize=4, group_size=32))
    assert asked.key == fused.key
    # Quantising also rounds the modules without an adapter; those with one are exact.
    packed = tiny_models.read_tensors(fused.path / "model.safetensors")
    assert packed["model.layers.0.self_attn.q_proj.weight"][0] == "U32"
    shown = sqlite_registry.fused.formats(name)
    assert [row.chosen for row in shown.formats] == [True]
    again = sqlite_registry.fused.fuse(name, FuseRequest(recipe=fused.key))
    assert again.digest == fused.digest
    explained = sqlite_registry.fused.explain(name)
    assert {model.status for model in explained.models if model.asked} == {"hit"}


def test_no_other_format_is_written(
    module_registry: Registry, packed: tuple[str, Path], tmp_path: Path
) -> None:
    name, before = packed[0], module_registry.fused.list()
    for request in (
        FuseRequest("dither"),
        FuseRequest("mixed"),
        FuseRequest("dequantize"),
        FuseRequest(quantize=8),
        FuseRequest(quantize=4, group_size=32),
        FuseRequest("keep", scale=0.5),
        FuseRequest(scale=0.5),
    ):
        for accept_loss in (False, True):
            with pytest.raises(FusionUnsupportedError) as refused:
                module_registry.fused.fuse(name, replace(request, accept_loss=accept_loss))
            assert refused.value.hint == f"fusery fuse {name}"
    assert module_registry.fused.list() == before
    # Nor is it used without being fused, or added to another.
    with module_registry.workspace.database.read() as session, pytest.raises(BadInputError) as unfused:
        plan_serving(session, [name])
    assert unfused.value.hint == f"fusery fuse {name}"
    assert_not_unfused(module_registry, name, tmp_path)
    with pytest.raises(BadInputError):
        module_registry.fused.fuse(name, FuseRequest("keep", extras=((name, 0.5),), accept_loss=True))


def test_probe_uses_the_rounded_model(
    module_registry: Registry, packed: tuple[str, Path], tmp_path: Path
) -> None:
    name, said = packed[0], list[str]()
    texts = tmp_path / "texts.txt"
    texts.write_text("One says what one means.\nNothing else is asked.\n")
    found = module_registry.evaluations.probe(name, prompts=texts, reporter=Reporter(said.append))
    assert [line for line in said if line.startswith(f"{name} was trained through a quantiser")]
    assert (found.a.kind, found.a.precision, found.b.kind) == ("fused", "keep", "base")
    assert (found.loss_base, found.gain_kept) == (found.loss_b, None)
    assert found.about_prompts.gain == pytest.approx(found.loss_b - found.loss_a, abs=1e-5)
    assert found.conclusion.startswith("The adapter, fused, changed")
    metrics = {each.metric for each in module_registry.evaluations.list(name)}
    assert [each.startswith("probe.keep") and each.endswith(".loss") for each in metrics] == [True]
    same = module_registry.evaluations.probe(name, against="base", prompts=texts)
    assert (same.a, same.b, same.kl) == (found.a, found.b, found.kl)
    other = module_registry.evaluations.probe("packed", against=name, limit=2)
    assert (other.a.kind, other.b) == ("base", found.a)


def assert_not_unfused(registry: Registry, name: str, folder: Path) -> None:
    options: dict[str, Any] = {"content": "adapters", "choices": Choices(base_name="org/base")}
    for target in ("adapters", "vllm", "hub"):
        with pytest.raises(BadInputError):
            registry.bundles.materialize(name, folder / target, target=target, **options)
        assert not (folder / target).exists()
    with pytest.raises(BadInputError):
        write_adapter(registry.workspace, name, folder, "peft")
    with pytest.raises(BadInputError):
        registry.adapters.shrink(name, rank=2)


def test_recipe_of_another_format_is_refused(
    module_registry: Registry, packed: tuple[str, Path], tmp_path: Path
) -> None:
    """A recipe of quantisation-aware training would let any adapter pass that rounding has removed."""
    name, folder = packed
    made = module_registry.fused.fuse(name)
    describe(shutil.copytree(folder, tmp_path / "plain"), None)
    plain = module_registry.adapters.register(tmp_path / "plain", base="packed", task="plain", **SAID).name
    with pytest.raises(BadInputError):
        module_registry.fused.fuse(plain, FuseRequest(recipe=made.key))
    lost = module_registry.fused.fuse(plain, FuseRequest("keep", accept_loss=True))
    with pytest.raises(BadInputError):
        module_registry.fused.fuse(name, FuseRequest(recipe=lost.key))
    for changed in ({"precision": "dither", "seed": 0}, {"scale": 0.5}):
        (tmp_path / "recipe.json").write_text(json.dumps(made.recipe | changed))
        with pytest.raises(FusionUnsupportedError):
            module_registry.fused.fuse(name, FuseRequest(recipe=str(tmp_path / "recipe.json")))


@pytest.mark.parametrize(
    ("own", "special", "precision"),
    [((4, 64), (8, 64), "dequantize"), ((8, 64), (4, 64), "keep"), ((4, 32), None, "dequantize")],
    ids=str,
)
def test_auto_writes_the_format_whatever_the_base_has(
    sqlite_registry: Registry,
    tmp_path: Path,
    own: tuple[int, int],
    special: tuple[int, int] | None,
    precision: str,
) -> None:
    """The adapted modules may have another format than the configuration gives for the whole model."""
    touched = [f"model.layers.{layer}.self_attn.{key}" for layer in range(2) for key in ("q_proj", "v_proj")]
    overrides = (
        {path: {"bits": special[0], "group_size": special[1]} for path in touched} if special else None
    )
    base = tiny_models.make_base(
        tmp_path / "base", dtype="float32", bits=own[0], group_size=own[1], overrides=overrides, layers=2
    )
    sqlite_registry.bases.add(base, name="base")
    train_through(base, tmp_path / "qat", TOKENS, bits=4, group_size=64)
    name = sqlite_registry.adapters.register(tmp_path / "qat", base="base", task="qat", **SAID).name
    fused = sqlite_registry.fused.fuse(name)
    assert (fused.precision, fused.fidelity.verdict) == (precision, "PASS")
    if precision == "dequantize":
        assert fused.recipe["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}
    small = sqlite_registry.fused.fuse(name, FuseRequest(budget=1.3))
    assert (small.key, small.fidelity.verdict) == (fused.key, "PASS")


def test_both_formats_declare_quantization_aware(module_registry: Registry, packed: tuple[str, Path]) -> None:
    exported = module_registry.adapters.folder(packed[0], format="peft")
    document = json.loads((exported / "adapter_config.json").read_text())
    assert document["quantization_aware"] == {"bits": 4, "group_size": 64}
    again = module_registry.adapters.register(exported, base="packed", task="again", **SAID)
    assert "quantization_aware" in {finding.code for finding in again.findings}
    made = module_registry.fused.fuse(again.name)
    assert (made.precision, made.fidelity.retained) == ("keep", 1.0)
    back = module_registry.adapters.folder(again.name, format="mlx")
    assert "quantization_aware" in json.loads((back / "adapter_config.json").read_text())


@pytest.mark.parametrize("form", ["4bit", "mxfp4", "nvfp4", "mxfp8"])
def test_the_fuse_has_the_bits_that_training_computes_with(
    sqlite_registry: Registry, tmp_path: Path, form: str
) -> None:
    """Codes, scales and biases of `fusery train --qat`, layer by layer, in every kind of format of mlx."""
    from mlx_lm.tuner.utils import load_adapters

    base = fuse_cases.make_base(tmp_path / "base", fuse_cases.Case("llama", form, "lora"))
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    own = json.loads((base / "config.json").read_text())["quantization"]
    describe(adapter, {key: own[key] for key in ("bits", "group_size", "mode")})
    sqlite_registry.bases.add(base, name="base")
    fused = sqlite_registry.fused.fuse(
        sqlite_registry.adapters.register(adapter, base="base", task="qat", **SAID).name
    )
    assert (fused.precision, fused.fidelity.verdict, fused.fidelity.retained) == ("keep", "PASS", 1.0)
    written = tiny_models.read_tensors(fused.path)
    model = adapters_by_class.load_lazily(base)
    arguments = SimpleNamespace(seed=0, num_layers=0, lora_parameters={})
    layers = make_layers(arguments, model, lambda *_: load_adapters(model, str(adapter)))
    paths = {id(module): path for path, module in model.named_modules()}
    assert len(layers) > 6
    for layer in layers:
        trained = _quantised(layer)
        for part in ("weight", "scales", "biases"):
            if (value := trained.get(part)) is not None:
                name = f"{paths[id(layer)]}.{part}"
                data = np.array(value.view(mx.uint8) if value.dtype != mx.uint32 else value).tobytes()
                assert written[name][2] == data, name


# Axolotl's adapters that were trained to be merged into NVFP4, on a base in another format (on NVFP4: test_nvfp4_merging.py).
CONFIG = Path(__file__).resolve().parents[2] / "data" / "trainer_configs" / "axolotl-0.19.0-merge-aware.json"
ENTRY = json.loads(CONFIG.read_text(encoding="utf-8"))["nvfp4_merge_aware"]


@pytest.fixture
def merge_aware(sqlite_registry: Registry, tmp_path: Path) -> str:
    base = tiny_models.make_base(tmp_path / "base", layout="hf")
    sqlite_registry.bases.add(base, name="SmolLM2-135M-Instruct")
    rank = json.loads(CONFIG.read_text(encoding="utf-8"))["r"]
    folder = make_peft(tmp_path / "adapter", base, rank=rank)
    shutil.copyfile(CONFIG, folder / "adapter_config.json")
    return sqlite_registry.adapters.register(
        folder, base="SmolLM2-135M-Instruct", task="qat", val_loss=1.0, dataset="greetings"
    ).name


def test_merge_aware_adapters_are_not_fused(
    sqlite_registry: Registry, merge_aware: str, tmp_path: Path
) -> None:
    shown = sqlite_registry.adapters.show(merge_aware)
    found = {finding.code: finding for finding in shown.findings}
    assert found["nvfp4_merge_aware"].severity == "warning"
    assert "axolotl merge-lora" in found["nvfp4_merge_aware"].hint
    for precision in ("auto", "keep", "dequantize"):
        with pytest.raises(FusionUnsupportedError) as refused:
            sqlite_registry.fused.fuse(merge_aware, FuseRequest(precision, accept_loss=True))
        assert "axolotl merge-lora" in (refused.value.hint or "")
    with pytest.raises(FusionUnsupportedError):
        sqlite_registry.fused.formats(merge_aware)
    with pytest.raises(FusionUnsupportedError):
        sqlite_registry.evaluations.probe(merge_aware, limit=1)
    assert_not_unfused(sqlite_registry, merge_aware, tmp_path)


@pytest.mark.parametrize("form", ["mlx", "peft"])
def test_merge_aware_forms(sqlite_registry: Registry, merge_aware: str, tmp_path: Path, form: str) -> None:
    for folder in (
        sqlite_registry.adapters.folder(merge_aware, format=form),
        sqlite_registry.exchange.export(merge_aware, tmp_path, form=form).path,
    ):
        assert json.loads((folder / "adapter_config.json").read_text())["nvfp4_merge_aware"] == ENTRY
    again = sqlite_registry.adapters.register(folder, base="SmolLM2-135M-Instruct", task=f"again_{form}")
    assert "nvfp4_merge_aware" in {finding.code for finding in again.findings}
    back = sqlite_registry.adapters.folder(again.name, format={"mlx": "peft", "peft": "mlx"}[form])
    assert json.loads((back / "adapter_config.json").read_text())["nvfp4_merge_aware"] == ENTRY
