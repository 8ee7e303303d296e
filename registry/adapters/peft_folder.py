"""PEFT's tensors by module: names and shapes, and what among them is not part of a LoRA.

base_model.model.MODULE.lora_A.weight            (rank, in)     of a linear layer
base_model.model.MODULE.lora_B.weight            (out, rank)
base_model.model.MODULE.lora_embedding_A         (rank, rows)   of an embedding
base_model.model.MODULE.lora_embedding_B         (columns, rank)
base_model.model.MODULE.lora_magnitude_vector    (out,)         of DoRA

Whatever else ends in `.weight` or `.bias`, and rows of trained tokens, is for `whole` to read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fusery.storage.safetensors import Header, Tensor

from ..parsing import plural
from . import CONFIG, PEFT_WEIGHTS, Finding, some
from .patterns import PatternError
from .peft_config import REFUSED, RESTORE, PeftConfig

PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB])|(?P<m>lora_magnitude_vector)(?:\.weight)?)"
)
_WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|base_layer|original_module|token_adapter)(?=\.)")
# What PEFT calls the rows of trained tokens: the rows themselves, and no difference.
ROWS = "trainable_tokens_delta"
_WHOLE = re.compile(rf".+\.(weight|bias|{ROWS})")
_FACTOR = re.compile(r"\.lora_\w+(\.|$)")


@dataclass(frozen=True, slots=True)
class PeftModule:
    """The tensors of one module, as in the file."""

    path: str
    a: Tensor | None = None
    b: Tensor | None = None
    m: Tensor | None = None
    embedding: bool = False
    pooled: int = 1  # QA-LoRA: how many neighbouring inputs share a column of `a`; 1 of any other

    @property
    def rank(self) -> int | None:
        """The rank that the tensors have."""
        if self.a is not None and len(self.a.shape) == 2:
            return self.a.shape[0]
        return self.b.shape[1] if self.b is not None and len(self.b.shape) == 2 else None

    @property
    def gain(self) -> float:
        """The factor of the update besides its scale."""
        # QA-LoRA takes the mean of each group of inputs, times the number of groups. Source: `QALoraLinearVariant` of
        # peft 0.21.2, src/peft/tuners/lora/variants.py.
        return self.a.shape[1] / self.pooled if self.pooled > 1 and self.a is not None else 1.0


def sort_tensors(header: Header) -> tuple[dict[str, PeftModule], list[str], list[Finding]]:
    """Return the modules of a PEFT file by path, the names of whole tensors, and remarks on what is neither."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unexpected: list[str] = []
    for name, tensor in header.tensors.items():
        match = _PART.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        # A convolution's factors have four dimensions: PEFT adapts them, mlx-lm does not.
        if match is None or len(tensor.shape) != (1 if match["m"] else 2):
            unexpected.append(name)
            continue
        part = "m" if match["m"] else (match["linear"] or match["embedding"]).lower()
        kind = "embedding_" if match["embedding"] else ""
        if parts[match["module"]].setdefault(kind + part, tensor) is not tensor:
            unexpected.append(name)
    modules = {}
    for path, module_parts in sorted(parts.items()):
        embedding = any(part.startswith("embedding_") for part in module_parts)
        a, b = (module_parts.get(f"embedding_{part}" if embedding else part) for part in ("a", "b"))
        modules[path] = PeftModule(path, a, b, module_parts.get("m"), embedding)
    weights = {own_name(name).rpartition(".")[0] for name in unexpected if name.endswith(".weight")}
    # Tensors of the base's, by their names; a bias only beside the weight of its module.
    whole = {
        name: None
        for name in unexpected
        if name.startswith(PREFIX)
        and _WHOLE.fullmatch(name)
        and not _FACTOR.search(name)
        and (not name.endswith(".bias") or own_name(name).rpartition(".")[0] in weights)
    }
    rest = [name for name in unexpected if name not in whole]
    return modules, list(whole), [*_on_unexpected(rest), *_on_embeddings(parts)]


def _on_embeddings(parts: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Finding]:
    for path, module_parts in parts.items():
        kinds = {part.startswith("embedding_") for part in module_parts if part != "m"}
        if len(kinds) > 1 or (True in kinds and "m" in module_parts):
            code = "peft_unknown_tensor" if len(kinds) > 1 else "peft_variant"
            message = f"{path} has the factors of an embedding, and others or DoRA's magnitudes"
            yield Finding(code, "error", path, message)


def _on_unexpected(names: list[str]) -> Iterator[Finding]:
    biases = [name for name in names if name.endswith(".bias")]
    added = any(name.endswith(".lora_B.bias") for name in biases)
    hint = REFUSED["lora_bias"].advice if added else ""
    others = [name for name in names if not name.endswith(".bias")]
    for code, tensor_names, text, advice in (
        ("peft_bias", biases, "change or add biases, which mlx-lm's LoRA does not", hint),
        ("peft_unknown_tensor", others, "are not the factors of a LoRA as PEFT saves it", ""),
    ):
        if tensor_names:
            message = f"{PEFT_WEIGHTS} holds {plural(len(tensor_names), 'tensor')} that {text}: {some(tensor_names)}"
            yield Finding(code, "error", PEFT_WEIGHTS, message, advice)


def own_name(name: str) -> str:
    """Return what the base calls a tensor that PEFT wrote: without its prefix and the wrappers of its modules."""
    return _WRAPPERS.sub("", name.removeprefix(PREFIX))


def check_ranks(config: PeftConfig, modules: Mapping[str, PeftModule]) -> Iterator[Finding]:
    """Yield remarks on tensors whose rank is not the configured one, which PEFT itself would not load."""
    wrong = []
    try:
        for module in modules.values():
            if module.rank is not None and module.rank != config.rank_of(module.path):
                wrong.append(f"{module.path} ({module.rank}, not {config.rank_of(module.path)})")
            config.scale_of(module.path)
    except PatternError as error:
        message = f"rank_pattern or alpha_pattern holds {error}, so the scale of a module is not known"
        yield Finding("peft_pattern", "error", CONFIG, message, "write the modules' names instead")
        return
    if wrong:
        message = f"{plural(len(wrong), 'module')} without the configured rank: {some(wrong)}"
        yield Finding("peft_rank_mismatch", "error", CONFIG, message, RESTORE)
