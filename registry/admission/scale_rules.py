"""Rules about the scale: that it is given, is one, and goes with alpha and rank as one of the two conventions has it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..adapters.files import CONFIG
from ..adapters.finding import Finding
from .candidate import Candidate
from .code import Code, rule

_LARGEST, _SMALLEST = 1e3, 1e-4

SCALE_MISSING = Code(
    "scale_missing",
    "error",
    "the configuration gives no scale",
    "mlx-lm multiplies the update by it and cannot load the adapter without",
    'write the "scale" of the run in lora_parameters (alpha / rank in other tools)',
)
ALPHA_WITHOUT_SCALE = Code(
    "alpha_without_scale",
    "error",
    "the configuration gives alpha where mlx-lm needs scale",
    "alpha has no effect in mlx-lm, and without a scale the adapter cannot be loaded",
    'write "scale" in lora_parameters: alpha / rank, or alpha / sqrt(rank) for rsLoRA',
)
SCALE_IS_ALPHA = Code(
    "scale_is_alpha",
    "warning",
    "the scale has the value of alpha",
    "the update is rank times as large as alpha / rank makes it",
    "if alpha was meant, write alpha / rank as the scale in adapter_config.json",
)
SCALE_IMPLAUSIBLE = Code(
    "scale_implausible",
    "warning",
    f"the scale is over {_LARGEST:g} or under {_SMALLEST:g}",
    "runs use about 0.1 to 100; a slip of the decimal point drowns the base or the adapter",
    "compare it with the arguments of the training run",
)
SCALE_NEGATIVE = Code(
    "scale_negative",
    "warning",
    "the scale is negative",
    "the update is taken away from the base instead of added: it unlearns what was trained",
    "write the scale of the run; to subtract an adapter, fuse it with a negative weight",
)
ALPHA_CONFLICT = Code(
    "alpha_conflict",
    "warning",
    "alpha is neither scale x rank nor, for rsLoRA, scale x sqrt(rank)",
    "one of alpha, scale and rank is written wrongly",
    "fusing uses the scale of adapter_config.json; alpha is only recorded",
)
RSLORA_SCALE = Code(
    "rslora_scale",
    "info",
    "alpha is scale x sqrt(rank), as in rank-stabilised LoRA",
    "tools that do not know rsLoRA compute another scale from alpha and rank",
    "for PEFT, use_rslora must be true",
)


@rule(SCALE_MISSING, ALPHA_WITHOUT_SCALE)
def scale_given(candidate: Candidate) -> Iterator[Finding]:
    """The configuration gives the scale."""
    folder = candidate.folder
    if folder.config.method == "full" or not folder.modules or folder.scale is not None:
        return
    if CONFIG in {problem.file for problem in folder.problems}:
        return
    parameters = folder.config.lora_parameters
    if parameters is not None and parameters.alpha is not None:
        message = f"the configuration gives alpha {parameters.alpha:g} and no scale"
        yield ALPHA_WITHOUT_SCALE.found(CONFIG, message)
    else:
        yield SCALE_MISSING.found(CONFIG, "the configuration gives no scale")


@rule(SCALE_IMPLAUSIBLE, SCALE_NEGATIVE)
def scale_plausible(candidate: Candidate) -> Iterator[Finding]:
    """The scale is a number that a run would use."""
    scale = candidate.folder.scale
    if candidate.folder.config.method == "full" or not scale:
        return
    if scale < 0:
        yield SCALE_NEGATIVE.found(CONFIG, f"the scale is {scale:g}")
    if not _SMALLEST <= abs(scale) <= _LARGEST:
        yield SCALE_IMPLAUSIBLE.found(CONFIG, f"the scale is {scale:g}")


@rule(SCALE_IS_ALPHA, ALPHA_CONFLICT, RSLORA_SCALE)
def scale_agrees_with_alpha(candidate: Candidate) -> Iterator[Finding]:
    """`alpha = scale * rank` holds where both are known, or `alpha = scale * sqrt(rank)` with rsLoRA."""
    folder = candidate.folder
    alpha = candidate.declared.alpha if candidate.declared.alpha is not None else folder.metadata.lora_alpha
    if alpha is None or folder.scale is None or not folder.rank:
        return
    scale, rank = folder.scale, folder.rank
    if any(_same(scale * each, alpha) for each in folder.ranks):
        return
    said = f"alpha is given as {alpha:g}, and scale {scale:g} x rank {rank} is {scale * rank:g}"
    if alpha == scale:
        yield SCALE_IS_ALPHA.found("alpha", f"{said}: the scale was written where alpha is meant")
    elif _same(scale * math.sqrt(rank), alpha):
        yield RSLORA_SCALE.found(
            "alpha", f"alpha {alpha:g} is scale {scale:g} x the square root of rank {rank}"
        )
    else:
        yield ALPHA_CONFLICT.found("alpha", said)


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
