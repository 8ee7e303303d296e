"""Rules about the tensors: that they fit each other and the base, and that their numbers do something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fusery.storage.safetensors import Tensor

from ..adapters.files import CONFIG, WEIGHTS
from ..adapters.finding import Finding, some
from ..adapters.mlx_config import LoraModule
from ..adapters.whole_fit import EMBEDDINGS, HEADS
from ..models.architecture import Weight
from .candidate import Candidate
from .code import Code, error, rule
from .file_rules import NO_TENSORS, UNKNOWN_TENSOR

_PARTS = ("weight", "bias", "scales", "biases")

SHAPE_MISMATCH = error(
    "shape_mismatch",
    "a tensor's shape does not fit its partner, or the weight of the base",
    "the update cannot be added",
    "the adapter belongs to another base model, or its tensors were transposed",
)
VOCABULARY_MISMATCH = error(
    "vocabulary_mismatch",
    "the adapter's embedding or output layer does not fit the base's, which may have another number of tokens",
    "tokens were added in training; without them, the ids of the tokenizer do not match the base",
    "add the base with the resized embedding, and register the adapter on that",
)
RANK_MISMATCH = error(
    "rank_mismatch",
    "the tensors have another rank than the configuration declares, or different ranks",
    "mlx-lm builds all layers with the configured rank, and cannot load the tensors",
    "take the adapter_config.json of the same run; pad smaller factors with zeros",
)


@rule(SHAPE_MISMATCH, VOCABULARY_MISMATCH)
def shapes_fit(candidate: Candidate) -> Iterator[Finding]:
    """The factors' and magnitudes' shapes fit each other and the base."""
    for module in candidate.folder.modules.values():
        weight = candidate.weights.get(module.path)
        if weight is not None and (why := _misfit(module, weight)):
            code = _shape_code(module.path)
            yield code.found(module.path, f"{module.path}: {why}")


def _shape_code(module: str) -> Code:
    return VOCABULARY_MISMATCH if module.rpartition(".")[2] in EMBEDDINGS | HEADS else SHAPE_MISMATCH


def _misfit(module: LoraModule, weight: Weight) -> str | None:
    a, b, shape = module.a, module.b, weight.shape
    if a is not None and b is not None:
        if len(shape) == 3:
            fits = len(a) == len(b) == 3 and a == (shape[0], a[1], shape[2]) and b == (*shape[:2], a[1])
        else:
            # Of a linear layer, or of an embedding.
            multiply = len(a) == len(b) == 2 and a[1] == b[0]
            fits = multiply and (a[0], b[1]) in (shape, shape[::-1])
        if not fits:
            return f"lora_a {a} and lora_b {b} do not fit a weight of shape {shape}"
    if module.m is not None and module.m != shape[:1]:
        return f"the magnitude m {module.m} does not fit a weight of shape {shape}"
    return None


@rule(NO_TENSORS, UNKNOWN_TENSOR, SHAPE_MISMATCH, VOCABULARY_MISMATCH)
def full_weights(candidate: Candidate) -> Iterator[Finding]:
    """A full fine-tune holds weights of the base in their shapes."""
    folder, weights = candidate.folder, candidate.base.architecture.weights
    if folder.header is None or folder.config.method != "full":
        return
    if not folder.header.tensors:
        yield NO_TENSORS.found(WEIGHTS, "the file holds no tensors")
    # Paths that contain modules: they may have numbers of their own, which are not on record.
    containers = {path[:place] for path in weights for place, letter in enumerate(path) if letter == "."}
    unknown = []
    for tensor in folder.header.tensors.values():
        module, _, part = tensor.name.rpartition(".")
        weight = weights.get(module)
        if part in ("lora_a", "lora_b"):
            continue  # a method_mismatch
        if weight is not None and part in _PARTS:
            if why := _misfit_full(tensor, part, weight):
                code = _shape_code(module)
                yield code.found(tensor.name, f"{tensor.name}: {why}")
        # A module with a weight may have other numbers too, such as the bias by which a router corrects itself.
        elif weight is None and module not in containers:
            unknown.append(tensor.name)
    yield from UNKNOWN_TENSOR.listed(
        WEIGHTS,
        unknown,
        "tensor",
        f"not in {candidate.base.name}",
        "the fine-tune belongs to another base model",
    )


def _misfit_full(tensor: Tensor, part: str, weight: Weight) -> str | None:
    if part in ("scales", "biases"):
        return None if weight.bits else "the base's weight is not quantised"
    if part == "bias":
        fits = tensor.shape in (weight.shape[:1], weight.shape[:-1])
    elif weight.bits:
        return "the base's weight is quantised, and cannot be replaced by numbers"
    elif len(weight.shape) > 2:
        # mlx-lm turns convolutions round when it loads them.
        fits = sorted(tensor.shape) == sorted(weight.shape)
    else:
        fits = tensor.shape == weight.shape
    return None if fits else f"its shape {tensor.shape} does not fit a weight of shape {weight.shape}"


@rule(RANK_MISMATCH)
def rank_consistent(candidate: Candidate) -> Iterator[Finding]:
    """All modules have the configured rank."""
    folder = candidate.folder
    if folder.config.method == "full":
        return
    shapes = {path: module.a for path, module in folder.modules.items() if module.a and len(module.a) > 1}
    ranks = {path: shape[-1] if len(shape) == 2 else shape[1] for path, shape in shapes.items()}
    counts = Counter(ranks.values())
    listed, configured = some(map(str, counts)), folder.config.parameters.rank
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [path for path, rank in ranks.items() if rank != usual]
        yield RANK_MISMATCH.found(WEIGHTS, f"the tensors have the ranks {listed}: not {usual} in {some(odd)}")
    elif counts and configured not in (None, *counts):
        message = f"the configuration says rank {configured}, and the tensors have {listed}"
        yield RANK_MISMATCH.found(CONFIG, message)
