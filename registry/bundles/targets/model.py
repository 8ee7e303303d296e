"""The target `model`: a plain folder that mlx-lm and transformers load, with its model card and its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry

from ...charts.curves import CURVE, curve_svg
from ...documents import provenance_part
from ...models.architecture import Architecture, read_architecture
from ..cards.card import ALWAYS, card_values
from ..cards.measured import EVAL_RESULTS, eval_results
from ..cards.template import render_card
from ..choices import Choices
from ..gguf_files import writes_gguf
from ..layout import Layout, model_layout
from ..record import bundle_record, sealed_bytes
from ..servers import transformers_class, transformers_reads
from ..source import BundleSource
from ..writing import BundleFolder, Sink


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the model's files, `README.md` and `fusery.json`."""
    write_model(source, bundle, choices)


def write_model(source: BundleSource, bundle: Sink, choices: Choices, *, under: str = "") -> None:
    """Write them to a folder of the bundle, with a slash at its end, or to the bundle itself.

    What a reader of a stream wants to know first comes first.
    """
    for name, content in own_files(source, choices).items():
        bundle.write(under + name, content)
    bundle.copy(source.fused, under=under, link=choices.link)


def own_files(source: BundleSource, choices: Choices, *, target: str = "model") -> dict[str, bytes]:
    """Return what a bundle adds to a fused model's files: its record, its card and the picture of its curve."""
    record = bundle_record(source, target, ".")
    model = read_architecture(source.fused.paths)
    values = card_values(
        record,
        base_name=choices.base_name,
        transformers=transformers_class(model),
        targets=_targets(source, model),
    )
    card = render_card(values, choices.card)
    own = {"README.md": card}
    if picture := curve_svg(provenance_part(record["provenance"], "adapter").get("curve")):
        own[CURVE] = picture
    if target == "hub" and (results := _eval_results(record["provenance"])):
        own[EVAL_RESULTS] = results
    made = [FileEntry(name, len(content), digest_bytes(content)) for name, content in own.items()]
    return {"fusery.json": sealed_bytes(record, [*source.fused.manifest, *made]), **own}


def _targets(source: BundleSource, model: Architecture) -> set[str]:
    """Return the targets in the card's list that accept a fused model."""
    found = {*ALWAYS, *(("ollama", "gguf") if writes_gguf(source.fused.paths) else ())}
    named = isinstance(model.config.get("architectures"), list)
    return {*found, "vllm"} if named and transformers_reads(model) else found


def _eval_results(provenance: Mapping[str, Any]) -> bytes | None:
    """Return what was measured of the adapter, where a model is that adapter: alone, at its own scale, and all of it."""
    adapter, recipe = provenance_part(provenance, "adapter"), provenance_part(provenance, "recipe")
    whole = provenance_part(provenance, "fidelity").get("verdict") == "PASS"
    if provenance.get("with") or recipe.get("scale") is not None or not whole:
        return None
    return eval_results(adapter, name=f"the adapter {adapter.get('name')}")


def check(folder: Path) -> Layout:
    """Read the model as its consumers do."""
    return model_layout(folder)
