"""Rules about the numbers: they are finite, not zero, and plausible in size."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..adapters import CONFIG, WEIGHTS, Finding
from ..adapters.trained_through import group_of
from .candidate import Candidate
from .code import error, rule, warning

_CLIPPED = 0.02
_FEWEST_TO_CLIP = 256
# Root mean square of the numbers in a weight of a language model, where the base's own are not at hand.
_WEIGHT = 0.02
# Times the weight from which an update is called large: measured, and by `_WEIGHT`.
_LARGE, _LARGE_UNSEEN = 1.0, 25.0
_NEGLIGIBLE = 1e-6
_LARGEST_F16 = 65504.0

NOT_FINITE = error(
    "not_finite",
    "tensors hold NaN or infinity",
    "a single one makes all outputs of the model NaN",
    "the training run diverged: take an earlier checkpoint",
)
ALL_ZERO = error(
    "all_zero",
    "the whole update is zero: lora_b has its initial values, or the scale is zero",
    "the adapter has no effect",
    "train longer, use a later checkpoint, or write the scale of the run",
)
MODULE_ZERO = warning(
    "module_zero",
    "the update of some modules is zero",
    "they were not trained, or their values were lost",
    "compare with another checkpoint of the run",
)
CLIPPED = warning(
    "factors_clipped",
    f"over {_CLIPPED:.0%} of a factor's numbers equal its maximum or minimum",
    "the numbers were clipped, or exceeded the range of a format",
    "train with a smaller learning rate, or save in a wider format",
)
GROUPS_UNEVEN = error(
    "qalora_uneven",
    "the configuration declares QA-LoRA, and A is not constant within each group of inputs",
    "the biases of a quantised base cannot hold such an update",
    "remove use_qalora from adapter_config.json if it comes from another run",
)
UPDATE_LARGE = warning(
    "update_large",
    "the update of a module is larger than the weight it is added to",
    "it overwrites what the base has learned: the run diverged, or the scale is wrong",
    "compare the scale with the arguments of the run, and take an earlier checkpoint",
)
UPDATE_NEGLIGIBLE = warning(
    "update_negligible",
    f"every module's update is under {_NEGLIGIBLE:.6f} of its weight",
    "the base's rounding removes it: the adapter has no effect",
    "train longer, or compare the scale with the arguments of the run",
)


@rule(NOT_FINITE)
def numbers_finite(candidate: Candidate) -> Iterator[Finding]:
    """No number is NaN or infinite."""
    whole = candidate.whole_values
    named_values = [*candidate.values.tensors.items(), *whole.items()]
    broken = [name for name, values in named_values if not values.finite]
    yield from NOT_FINITE.listed(WEIGHTS, broken, "tensor", "with NaN or infinity")
    half = candidate.base.architecture.dtype == "f16"
    large = [name for name, values in whole.items() if half and max(values.high, -values.low) > _LARGEST_F16]
    beyond = set(large) - set(broken)
    yield from NOT_FINITE.listed(WEIGHTS, beyond, "tensor", "too large for the base's float16")


@rule(ALL_ZERO, MODULE_ZERO)
def update_not_zero(candidate: Candidate) -> Iterator[Finding]:
    """The update of each module is not zero."""
    folder, scanned = candidate.folder, candidate.values.tensors
    if folder.header is None:
        return
    if folder.config.method == "full":
        if scanned and all(values.zero for values in scanned.values()):
            yield ALL_ZERO.finding(WEIGHTS, "every weight is zero")
        return
    if folder.scale == 0:
        message = "the configuration's scale is zero: the adapter does nothing"
        yield ALL_ZERO.finding(CONFIG, message, "write the scale of the run")
    zeros = (name for name, values in scanned.items() if values.zero and not name.endswith(".m"))
    dead = {name.rpartition(".")[0] for name in zeros}
    if folder.modules and dead >= set(folder.modules):
        yield ALL_ZERO.finding(WEIGHTS, "every module's update is zero: the adapter does nothing")
    else:
        text = f"of {len(folder.modules)} with an update of zero"
        yield from MODULE_ZERO.listed(WEIGHTS, dead, "module", text)


@rule(GROUPS_UNEVEN)
def qalora_groups_constant(candidate: Candidate) -> Iterator[Finding]:
    """A QA-LoRA adapter's A is constant within each group of inputs."""
    text = f"whose A differs within groups of {group_of(candidate.folder.raw_config)} inputs"
    yield from GROUPS_UNEVEN.listed(WEIGHTS, candidate.values.uneven, "module", text)


@rule(CLIPPED)
def numbers_not_clipped(candidate: Candidate) -> Iterator[Finding]:
    """Few numbers of a factor equal its maximum or minimum."""
    # QA-LoRA has each number once for every input of a group.
    fewest = _FEWEST_TO_CLIP * (group_of(candidate.folder.raw_config) or 1)
    clipped = [
        name
        for name, values in candidate.values.tensors.items()
        if values.clipped > _CLIPPED
        and values.count >= fewest
        and name.rpartition(".")[2] in ("lora_a", "lora_b")
    ]
    yield from CLIPPED.listed(WEIGHTS, clipped, "tensor", "with many numbers at the maximum or minimum")


@rule(UPDATE_LARGE, UPDATE_NEGLIGIBLE)
def updates_plausible(candidate: Candidate) -> Iterator[Finding]:
    """Each update is smaller than its weight, and not all are negligible."""
    scale, shapes = candidate.folder.scale or 0.0, candidate.base.architecture.weights
    sizes = {  # root mean square of the numbers of each update that is not zero
        path: abs(scale) * norm / math.sqrt(math.prod(shapes[path].shape))
        for path, norm in candidate.values.norms.items()
        if scale and norm and path in shapes and math.prod(shapes[path].shape)
    }
    if not sizes or not all(map(math.isfinite, sizes.values())):
        return
    top = max(sizes, key=lambda path: sizes[path])
    weights = candidate.base.weight_sizes([top])
    weight, limit = (weights[top], _LARGE) if top in weights else (_WEIGHT, _LARGE_UNSEEN)
    if weight and sizes[top] > limit * weight:
        seen = "" if top in weights else "a usual "
        message = f"the update of {top} is {sizes[top] / weight:,.1f} times as large as {seen}weight"
        yield UPDATE_LARGE.finding(top, message.replace("as weight", "as its weight"))
    elif weight and sizes[top] < _NEGLIGIBLE * weight:
        message = f"the largest update is {sizes[top] / weight:.1e} of its weight"
        yield UPDATE_NEGLIGIBLE.finding(WEIGHTS, message)


_LARGEST, _SMALLEST = 1e3, 1e-4

SCALE_MISSING = error(
    "scale_missing",
    "the configuration has no scale, or has alpha instead",
    "mlx-lm ignores alpha, and cannot load an adapter without a scale",
    'set "scale" in lora_parameters of adapter_config.json: alpha / rank, or for rsLoRA alpha / sqrt(rank)',
)
SCALE_IMPLAUSIBLE = warning(
    "scale_implausible",
    f"the scale is over {_LARGEST:g}, under {_SMALLEST:g}, or negative",
    "runs use about 0.1 to 100; check the decimal point, and note that a negative scale subtracts the adapter",
    "compare it with the arguments of the training run; to subtract an adapter, fuse it with a negative weight",
)
ALPHA_CONFLICT = warning(
    "alpha_conflict",
    "alpha is neither scale x rank nor, for rsLoRA, scale x sqrt(rank)",
    "one of alpha, scale and rank is wrong, or alpha and scale were confused",
    "correct the wrong one in adapter_config.json; fusing uses the scale, and does not read alpha",
)


@rule(SCALE_MISSING)
def scale_given(candidate: Candidate) -> Iterator[Finding]:
    """The configuration gives the scale."""
    folder = candidate.folder
    if folder.config.method == "full" or not folder.modules or folder.scale is not None:
        return
    if CONFIG in {problem.file for problem in folder.problems}:
        return
    alpha = folder.config.parameters.alpha
    given = "" if alpha is None else f"alpha {alpha:g} and "
    yield SCALE_MISSING.finding(CONFIG, f"the configuration gives {given}no scale")


@rule(SCALE_IMPLAUSIBLE)
def scale_plausible(candidate: Candidate) -> Iterator[Finding]:
    """The scale is within the range that training runs use."""
    scale = candidate.folder.scale
    if candidate.folder.config.method != "full" and scale and not _SMALLEST <= scale <= _LARGEST:
        yield SCALE_IMPLAUSIBLE.finding(CONFIG, f"the scale is {scale:g}")


@rule(ALPHA_CONFLICT)
def scale_agrees_with_alpha(candidate: Candidate) -> Iterator[Finding]:
    """`alpha = scale * rank` holds where both are known, or `alpha = scale * sqrt(rank)` with rsLoRA."""
    folder = candidate.folder
    alpha = candidate.declared.alpha if candidate.declared.alpha is not None else folder.metadata.lora_alpha
    scale, rank = folder.scale, folder.rank
    if alpha is None or scale is None or not rank or any(_same(scale * own, alpha) for own in folder.ranks):
        return
    if not _same(scale * math.sqrt(rank), alpha):
        message = f"alpha is given as {alpha:g}, and scale {scale:g} x rank {rank} is {scale * rank:g}"
        yield ALPHA_CONFLICT.finding("alpha", message)


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
