"""Rules about the tensors: that they fit each other and the base, and that their numbers do something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median

from fusery.storage.safetensors import Tensor

from ..adapters.files import CONFIG, WEIGHTS
from ..adapters.finding import Finding, some
from ..adapters.mlx_config import LoraModule
from ..adapters.whole_fit import EMBEDDINGS, HEADS
from ..models.architecture import Weight
from .candidate import Candidate
from .code import error, rule, warning
from .file_rules import NO_TENSORS, UNKNOWN_TENSOR

_PARTS = ("weight", "bias", "scales", "biases")

SHAPE_MISMATCH = error(
    "shape_mismatch",
    "a tensor's shape does not fit its partner, or the weight of the base",
    "the update cannot be added",
    "the adapter belongs to another base model, or was transposed on the way",
)
VOCABULARY_MISMATCH = error(
    "vocabulary_mismatch",
    "the adapter's embedding or output layer has another number of rows than the base's",
    "tokens were added in training: without them the ids of the tokenizer mean something else",
    "add the base with the resized embedding, and register the adapter on that",
)
RANK_MISMATCH = error(
    "rank_mismatch",
    "the tensors have another rank than the configuration says",
    "mlx-lm makes layers of the configured rank, and then cannot load the tensors",
    "take the adapter_config.json of the same run",
)
RANK_MIXED = error(
    "rank_mixed",
    "modules have different ranks",
    "mlx-lm knows one rank for all modules and cannot load the tensors",
    "train with one rank, or pad the smaller factors with zeros",
)
RANK_EXCEEDS_MATRIX = warning(
    "rank_exceeds_matrix",
    "the rank is larger than the smaller side of the matrix",
    "the factors are larger than the change that they can describe",
    "train with a smaller rank",
)

_NARROW = 4


@rule(SHAPE_MISMATCH, VOCABULARY_MISMATCH)
def shapes_fit(candidate: Candidate) -> Iterator[Finding]:
    """The factors' and magnitudes' shapes fit each other and the base."""
    for module in candidate.folder.modules.values():
        weight = candidate.weights.get(module.path)
        if weight is not None and (why := _misfit(module, weight)):
            code = VOCABULARY_MISMATCH if _is_resized(module, weight) else SHAPE_MISMATCH
            yield code.found(module.path, f"{module.path}: {why}")


def _is_resized(module: LoraModule, weight: Weight) -> bool:
    """Tell whether only the number of tokens differs: of an embedding it is the side of A, of a head that of B."""
    a, b = module.a, module.b
    if a is None or b is None or not len(a) == len(b) == len(weight.shape) == 2 or a[1] != b[0]:
        return False
    last = module.path.rpartition(".")[2]
    if last in EMBEDDINGS:
        return b[1] == weight.shape[1] and a[0] != weight.shape[0]
    return last in HEADS and a[0] == weight.shape[1] and b[1] != weight.shape[0]


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
                code = VOCABULARY_MISMATCH if _is_resized_full(tensor, module, weight) else SHAPE_MISMATCH
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


def _is_resized_full(tensor: Tensor, module: str, weight: Weight) -> bool:
    last = module.rpartition(".")[2]
    return (
        last in EMBEDDINGS | HEADS
        and len(tensor.shape) == len(weight.shape) == 2
        and tensor.shape[1] == weight.shape[1]
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


@rule(RANK_MISMATCH, RANK_MIXED)
def rank_consistent(candidate: Candidate) -> Iterator[Finding]:
    """All modules have the configured rank."""
    folder = candidate.folder
    if folder.config.method == "full" or not folder.modules:
        return
    configured = folder.config.parameters.rank
    ranks = {path: rank for path, module in folder.modules.items() if (rank := _rank(module)) is not None}
    counts = Counter(ranks.values())
    listed = some(map(str, counts))
    if configured is not None and counts and set(counts) != {configured}:
        message = f"the configuration says rank {configured}, and the tensors have {listed}"
        yield RANK_MISMATCH.found(CONFIG, message)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [path for path, rank in ranks.items() if rank != usual]
        yield RANK_MIXED.found(WEIGHTS, f"the tensors have the ranks {listed}: not {usual} in {some(odd)}")


def _rank(module: LoraModule) -> int | None:
    if not module.a or len(module.a) < 2:
        return None
    return module.a[-1] if len(module.a) == 2 else module.a[1]


@rule(RANK_EXCEEDS_MATRIX)
def rank_fits_matrix(candidate: Candidate) -> Iterator[Finding]:
    """No rank is larger than the matrix that it is to change.

    A router of experts or the gate of a head is narrow on purpose, and mlx-lm has one rank for all: such are passed over.
    """
    weights = candidate.base.architecture.weights
    sides = {
        path: min(weights[path].shape[-2:])
        for path in candidate.folder.modules
        if path in weights and len(weights[path].shape) > 1
    }
    usual = median(sides.values()) if sides else 0
    for path, side in sides.items():
        rank = _rank(candidate.folder.modules[path])
        if rank and rank > side and side * _NARROW >= usual:
            message = f"rank {rank} is more than the {side} that {path} can have"
            yield RANK_EXCEEDS_MATRIX.found(path, message)
            return
