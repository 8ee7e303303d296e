"""The target `lorax`: adapters in the form that LoRAX reads, each of them in every layer of the base.

Rules: predibase/lorax at a7394ba, server/lorax_server/adapters/lora.py: one layer without factors for a kind of module makes
LoRAX leave that kind out everywhere (`LoraWeights.load` returns None), and all layers must have the same rank
(`torch.stack`).  mlx-lm's trainer adapts the last 16 layers, so its adapters would have no effect: the other
layers get updates of zero here.  Models and modules: `adapter_layers` in server/lorax_server/models/.
"""

from __future__ import annotations

from pathlib import Path

from fusery.registry.adapters.mlx_form import OWN_SERVER
from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout
from fusery.registry.bundles.writing import BundleFolder, bundle_record
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import Architecture

from .common import (
    Served,
    base_architecture,
    facts_of,
    finish,
    named_base,
    peft_layout,
    require_shared_names,
    served_adapters,
    unfound_base,
    write_peft,
    written_adapters,
)

__all__ = ["check", "unfound_base", "write"]

MODELS = frozenset({"cohere", "gemma", "gemma2", "granite", "llama", "mistral", "qwen2"})
"""Model types whose layers LoRAX can adapt, among those with the same module names in mlx-lm and transformers."""

MODULES = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_HEADED = MODELS - {"gemma", "gemma2"}
_SERVER = "LoRAX"


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `adapters/`, README.md and fusery.json."""
    base = base_architecture(source)
    _require_known(base)
    served = [_everywhere(each, base) for each in served_adapters(source, base)]
    named = named_base(source, base, choices.base_name, _SERVER)
    for each in served:
        write_peft(bundle, each, named.name)
    record = written_adapters(bundle_record(source, "lorax", None), bundle)
    values = {
        "name": source.name,
        "base": named,
        "adapters": facts_of(record),
        "first": served[0].adapter.name,
    }
    finish(bundle, record, "lorax_readme.md.j2", **values)


def check(folder: Path) -> Layout:
    """Read the adapters as LoRAX does."""
    return peft_layout(folder / "adapters")


def _require_known(base: Architecture) -> None:
    if base.model_type not in MODELS:
        raise BadInputError(
            f"LoRAX adapts no model of the architecture {base.model_type[:40]!r} that has these modules",
            hint=OWN_SERVER,
        )
    require_shared_names(base, _SERVER)


def _everywhere(served: Served, base: Architecture) -> Served:
    allowed = MODULES | ({"lm_head"} if base.model_type in _HEADED else set())
    strange = sorted(path for path in served.plain.modules if path.rpartition(".")[2] not in allowed)
    if strange:
        raise BadInputError(
            f"{served.adapter.name} has an update of {strange[0]}, which LoRAX passes over",
            hint=OWN_SERVER,
        )
    plain = served.plain.in_every_layer(base.layers(), base.layer_stem())
    return Served(served.adapter, plain)
