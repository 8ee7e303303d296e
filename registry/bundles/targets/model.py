"""The target `model`: a plain folder that mlx-lm and transformers load, with its model card and its provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry

from ...charts.curves import CURVE, curve_svg
from ...documents import provenance_part
from ...engine.architectures import has_tensor_scales
from ...models.architecture import Architecture, read_architecture
from ..card import EVAL_RESULTS, SHIPS, card_values, eval_results
from ..rendering import render_card
from ..source import BundleSource, Choices
from ..target import Layout, model_layout, own_targets
from ..writing import Sink, bundle_record, sealed_bytes


def write(source: BundleSource, bundle: Sink, choices: Choices, *, under: str = "") -> None:
    """Write the model's files, `README.md` and `fusery.json`; `under` is the beginning of their paths."""
    for name, content in own_files(source, choices).items():
        bundle.write(under + name, content)
    bundle.copy(source.fused, under=under, link=choices.link)


def own_files(source: BundleSource, choices: Choices, *, target: str = "model") -> dict[str, bytes]:
    """Return the files that a bundle adds to a fused model: record, card and picture of the curve."""
    record = bundle_record(source, target, ".")
    model = read_architecture(source.fused.paths)
    values = card_values(
        record,
        base_name=choices.base_name,
        transformers=transformers_class(model),
        targets=_accepting(source),
    )
    card = render_card(values, choices.card)
    own = {"README.md": card}
    if picture := curve_svg(provenance_part(record["provenance"], "adapter").get("curve")):
        own[CURVE] = picture
    if target == "hub" and (results := _eval_results(record["provenance"])):
        own[EVAL_RESULTS] = results
    made = [FileEntry(name, len(content), digest_bytes(content)) for name, content in own.items()]
    return {"fusery.json": sealed_bytes(record, [*source.fused.manifest, *made]), **own}


def _accepting(source: BundleSource) -> set[str]:
    """Return the targets of `SHIPS` that accept a fused model; a rule that two share is evaluated once."""
    rules: dict[Callable[[BundleSource], bool] | None, list[str]] = {}
    for name in SHIPS:
        if target := own_targets().get(name):
            rules.setdefault(getattr(target.require(), "accepts", None), []).append(name)
    return {name for rule, names in rules.items() if rule is None or rule(source) for name in names}


def _eval_results(provenance: Mapping[str, Any]) -> bytes | None:
    """Return the adapter's evaluation results if the model is equivalent to it: alone, at its own scale, and retained."""
    adapter, recipe = provenance_part(provenance, "adapter"), provenance_part(provenance, "recipe")
    whole = provenance_part(provenance, "fidelity").get("verdict") == "PASS"
    if provenance.get("with") or recipe.get("scale") is not None or not whole:
        return None
    return eval_results(adapter, name=f"the adapter {adapter.get('name')}")


def is_packed(model: Architecture) -> bool:
    """Return whether a model is quantised in MLX's format, which only MLX reads."""
    packed = any(weight.bits is not None for weight in model.weights.values())
    return packed and not has_tensor_scales(model.config)


def transformers_reads(model: Architecture) -> bool:
    """Return whether transformers loads a model from its folder, with every tensor and without code from the hub."""
    from ...adapters.peft_form import names_are_shared
    from ...engine.architectures import NOT_IN_TRANSFORMERS

    named = not model.written_by_mlx or names_are_shared(model)
    plain = not is_packed(model) and not has_tensor_scales(model.config)
    return named and plain and model.model_type not in NOT_IN_TRANSFORMERS


def transformers_class(model: Architecture) -> str | None:
    """Return transformers' class for a model's folder; None if transformers does not load it."""
    if not transformers_reads(model):
        return None
    # This class has all models with a vision tower, the other only some.
    return "AutoModelForImageTextToText" if "vision_config" in model.config else "AutoModelForCausalLM"


def check(folder: Path) -> Layout:
    """Read the model as its consumers do."""
    return model_layout(folder)
