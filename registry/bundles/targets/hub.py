"""The target `hub`: a model's repository for huggingface.co: the fused model, or one adapter in PEFT's form, with its card.

The card's front matter is what the hub reads (https://huggingface.co/docs/hub/model-cards#specifying-a-base-model): `base_model` and
`base_model_relation`, `finetune` for a fused model and `adapter` for an adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import read_header

from ...adapters.files import CONFIG, PEFT_WEIGHTS
from ...charts.curves import CURVE, curve_svg
from ...documents import provenance_part
from ...errors import BadInputError
from ..cards.card import card_values
from ..cards.measured import EVAL_RESULTS, eval_results
from ..cards.template import ADAPTER_CARD, render_card
from ..choices import Choices
from ..layout import Layout, LayoutError, model_layout
from ..record import bundle_record, sealed_bytes
from ..servers import base_architecture, transformers_class
from ..source import BundledAdapter, BundleSource
from ..writing import BundleFolder
from .model import own_files


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write what the repository will hold, all of it at its top."""
    if not source.adapters:
        for name, content in own_files(source, choices, target="hub").items():
            bundle.write(name, content)
        bundle.copy(source.fused, link=choices.link)
        return
    if len(source.adapters) > 1:
        raise BadInputError(
            f"a repository of the hub holds one adapter, and {len(source.adapters)} were given",
            hint="materialize each to a repository of its own",
        )
    _write_adapter(source, source.adapters[0], bundle, choices)


def _write_adapter(
    source: BundleSource, adapter: BundledAdapter, bundle: BundleFolder, choices: Choices
) -> None:
    from ...documents import document_bytes

    record: dict[str, Any] = bundle_record(source, "hub", None)
    base = provenance_part(record["provenance"], "base")
    called = choices.base_name or base.get("hub_id") or base.get("name") or ""
    weights = [entry for entry in adapter.files.manifest if entry.path != CONFIG]
    # Who loads the adapter is told by this which base it is for; what the trainer called it means nothing elsewhere.
    config = {**read_object(adapter.files.paths[CONFIG]), "base_model_name_or_path": str(called)}
    if config.get("layers_to_transform") is None:
        config.pop("layers_pattern", None)  # PEFT refuses a pattern without layers; older versions saved it
    bundle.write(CONFIG, document_bytes(config))
    bundle.copy(adapter.files.only(entry.path for entry in weights), link=choices.link)
    bundle.copy(adapter.tokenizer, link=choices.link)
    written = [entry.to_dict() for entry in bundle.manifest()]
    facts = record["adapters"][0]["facts"]
    values = card_values(
        {
            "name": adapter.name,
            "digest": None,
            "provenance": {**record["provenance"], "adapter": facts},
            "files": written,
        },
        base_name=str(called),
        transformers=transformers_class(base_architecture(source)),
    )
    bundle.write("README.md", render_card(values, choices.card, builtin=ADAPTER_CARD))
    if results := eval_results(facts, name=adapter.name):
        bundle.write(EVAL_RESULTS, results)
    if picture := curve_svg(facts.get("curve")):
        bundle.write(CURVE, picture)
    record["adapters"] = [{**record["adapters"][0], "path": ".", "files": written}]
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the model, or the adapter, as who downloads it does."""
    if not (folder / CONFIG).is_file():
        return model_layout(folder)
    from ...adapters.peft_folder import sort_tensors

    try:
        # Whole tensors are PEFT's to put where they were.
        found, _, wrong = sort_tensors(read_header(folder / PEFT_WEIGHTS))
    except StorageError as error:
        raise LayoutError(f"the bundle's adapter cannot be read: {error.message}") from error
    if not found or wrong or read_object(folder / CONFIG).get("peft_type") != "LORA":
        raise LayoutError("PEFT would not find in the bundle's adapter what is in it")
    return Layout(modules=len(found), adapters=1)
