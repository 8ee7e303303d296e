"""The target `vllm`: adapters for vLLM's resolver and `--lora-modules`, or a fused model, and the command that serves them.

Rules: vllm 0.32.0, vllm/plugins/lora_resolvers/filesystem_resolver.py (the base's name is compared as text with what the
server was started with), vllm/lora/peft_helper.py and lora_model.py (what is accepted), vllm/config/lora.py (ranks).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.registry.adapters.mlx_form import OWN_SERVER
from fusery.registry.bundles.card import card_values
from fusery.registry.bundles.rendering import resource
from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout, model_layout
from fusery.registry.bundles.targets.model import transformers_reads
from fusery.registry.bundles.targets.model import write as write_model
from fusery.registry.bundles.writing import BundleFolder, bundle_record
from fusery.registry.engine.architectures import has_tensor_scales
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import Architecture, read_architecture

from . import common
from .common import VLLM, NamedBase

if TYPE_CHECKING:
    from fusery.registry.adapters.mlx_form import PlainAdapter

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes (vllm/config/lora.py, `MaxLoRARanks`)."""

WITH_ENDS = frozenset(
    {"cohere", "cohere2", "exaone", "exaone4", "granite", "llama", "minicpm", "mistral", "nemotron", "qwen3"}
)
"""Model types whose embedding and head vLLM can adapt (`embedding_modules` in vllm/model_executor/models/)."""


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `adapters/`, `vllm.env` and `tokenizer/` if needed, or `model/`; and `serve.sh`, README.md, fusery.json."""
    if source.adapters:
        _write_adapters(source, bundle, choices)
        return
    common.require_dense(source, common.base_architecture(source), VLLM)
    record = bundle_record(source, "vllm", "model")
    write_model(source, bundle, choices, under="model/")
    script: Mapping[str, Any] = {"name": source.name, "base": None, "adapters": [], "rank": None}
    bundle.write("serve.sh", common.render("vllm_serve.sh.j2", **script, tokenizer=False))
    common.finish(bundle, record, "vllm_readme.md.j2", **_readme(record, None, None), tokenizer=False)


def _write_adapters(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    architecture, served, rank = adaptable(source)
    base = common.named_base(source, architecture, choices.base_name, VLLM)
    for name, adapter in served.items():
        common.write_peft(bundle, adapter, base.name, f"adapters/{name}/")
    own = source.tokenizer is not None
    if source.tokenizer is not None:
        bundle.copy(source.tokenizer, under="tokenizer/")
    record = common.written_adapters(bundle_record(source, "vllm", None), bundle)
    script = {"name": source.name, "base": base, "adapters": list(served), "rank": rank, "tokenizer": own}
    bundle.write("serve.sh", common.render("vllm_serve.sh.j2", **script))
    bundle.write("vllm.env", resource("vllm.env.txt", "integrations"))
    readme = _readme(record, base, rank)
    ranks = {"largest": max(adapter.rank for adapter in served.values()), "ranks": RANKS}
    common.finish(bundle, record, "vllm_readme.md.j2", **readme, **ranks, tokenizer=own)


def adaptable(source: BundleSource) -> tuple[Architecture, dict[str, PlainAdapter], int]:
    """Return the base, the adapters as vLLM computes them, and the smallest `--max-lora-rank` for all."""
    base = common.base_architecture(source)
    common.require_shared_names(base, VLLM)
    served = common.served_adapters(source, base)
    for name, adapter in served.items():
        ends = [path for path in adapter.modules if path in ("lm_head", "model.embed_tokens")]
        if ends and base.model_type not in WITH_ENDS:
            message = f"vLLM does not adapt {ends[0]} of {base.model_type}, as {name} does"
            raise BadInputError(message, hint=_other_target(source, base))
    largest = max(adapter.rank for adapter in served.values())
    rank = next((rank for rank in RANKS if rank >= largest), None)
    if rank is None:
        message = f"rank {largest} of an adapter is above vLLM's maximum of {RANKS[-1]}"
        raise BadInputError(message, hint=_other_target(source, base))
    return base, served, rank


def _other_target(source: BundleSource, base: Architecture) -> str:
    """Return the hint for adapters that vLLM does not serve beside their base."""
    try:
        common.require_dense(source, base, VLLM)
    except BadInputError:
        return OWN_SERVER
    return "--target vllm --fused" if len(source.adapters) == 1 else OWN_SERVER


def accepts(source: BundleSource) -> bool:
    """Tell whether vLLM loads a fused model."""
    model = read_architecture(source.fused.paths)
    read = transformers_reads(model) or has_tensor_scales(model.config)
    return isinstance(model.config.get("architectures"), list) and read


def unfound_base(source: BundleSource, given: str | None) -> str | None:
    """Return the name of the adapters' base model if no server finds a model by it; else None."""
    if not source.adapters:
        return None
    named = common.named_base(source, common.base_architecture(source), given, "a server")
    return None if named.resolvable else named.name


def check(folder: Path) -> Layout:
    """Read the adapters or the model as vLLM does."""
    if (folder / "model").is_dir():
        return model_layout(folder / "model")
    return common.peft_layout(folder / "adapters")


def _readme(record: Mapping[str, Any], base: NamedBase | None, rank: int | None) -> Mapping[str, Any]:
    facts = common.facts_of(record)
    return {
        "name": record["name"],
        "base": base,
        "adapters": facts,
        "first": record["adapters"][0]["name"] if facts else record["name"],
        "rank": rank,
        "lineage": [] if facts else card_values(record)["lineage"],
    }
