"""Fuse requests, and the candidate recipes of a request, from the smallest output to the largest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ..adapters.trained_through import in_words
from ..engine.architectures import TENSOR_SCALED
from ..engine.recipe import CHOICES, ONCE, PREFERRED, USUAL_SEED, WRITTEN_AS, Recipe, RequestedPrecision
from ..errors import BadInputError, FusionUnsupportedError
from ..records.calibrations import require_of_base
from .fuse_inputs import FuseInputs
from .speed import NOTICEABLE, times_faster

Rounding = Literal["once", "mlx-lm"]
Mode = Literal["affine", "mxfp4", "nvfp4", "mxfp8"]

ROUNDINGS: tuple[Rounding, ...] = ("once", "mlx-lm")
# MLX's quantisation modes, with the default group size of each
MODES: Mapping[Mode, int] = {"affine": 64, "mxfp4": 32, "nvfp4": 16, "mxfp8": 32}
WIDER = (5, 6, 8)  # bits that `mixed` gives to touched modules
_BUDGET = re.compile(r"(?P<factor>\d+(\.\d+)?)x?")


@dataclass(frozen=True, slots=True)
class FuseRequest:
    """How to fuse.

    Attributes:
        precision: `keep`, `dither`, `mixed`, `dequantize`, or `auto` for the smallest output that passes.
        quantize: bits to quantise every layer to; None to not requantise.
        group_size: with `quantize`; None for the mode's default.
        mode: with `quantize`: `affine`, `mxfp4`, `nvfp4` or `mxfp8`.
        scale: replaces the adapter's own scale.
        extras: further adapters to add, each with its weight.
        budget: largest size of the weights, as a multiple of the base's; None for no limit.
        rounding: of DoRA: `once`, in float32 to the end, or `mlx-lm`, after each step as `mlx_lm.fuse` does; None for
            `once` with `auto`, and `mlx-lm` otherwise.
        min_fidelity: share of the update that must be retained, 0 to 1: 0.9 asks for 0.9 to 1.1; None for the verdict alone.
        accept_loss: publish even what is LOST, DEGRADED with `auto`, or below `min_fidelity`.
        accept_foreign: take what another registry says is the model, if its files are here, instead of making it.
        recipe: a recipe as it is on record: the key of what was made by it, or a file that holds it; instead of all that says
            how to fuse.
        base: another form of the adapter's base model to fuse onto, such as its 4-bit form; None for the adapter's own.
        probe: time limit in seconds for running the model on held-out prompts if its weights do not decide; 0: never; None: 60, and only once.
        prefer: goal of `auto`: `size`, or `speed`: 16 bits if mlx is faster with them on this machine; None for `size`, or
            for `speed` where the model is served at once.
    """

    precision: RequestedPrecision = "auto"
    quantize: int | None = None
    group_size: int | None = None
    mode: Mode | None = None
    scale: float | None = None
    extras: tuple[tuple[str, float], ...] = ()
    budget: float | None = None
    seed: int = USUAL_SEED
    rounding: Rounding | None = None
    min_fidelity: float | None = None
    accept_loss: bool = False
    accept_foreign: bool = False
    recipe: str | None = None
    base: str | None = None
    probe: float | None = None
    prefer: Literal["size", "speed"] | None = None

    def check(self) -> None:
        """Refuse contradictory or impossible values."""
        for message, hint in self._faults():
            raise BadInputError(message, hint=hint)

    def _faults(self) -> Iterator[tuple[str, str]]:
        weights = [weight for _, weight in self.extras]
        if self.precision not in CHOICES:
            yield f"unknown precision {self.precision[:40]!r}", f"--as {'|'.join(WRITTEN_AS.values())}"
        if self.rounding not in (None, *ROUNDINGS):
            yield f"unknown rounding {str(self.rounding)[:40]!r}", f"-o rounding={'|'.join(ROUNDINGS)}"
        if self.min_fidelity is not None and not 0 <= self.min_fidelity <= 1:
            yield "the share that must be retained is a number from 0 to 1", "--min-fidelity 0.9"
        if not all(math.isfinite(number) for number in (*weights, self.scale or 0.0)):
            yield "a scale or a weight is not a finite number", "-o scale=10, --with REF:0.5"
        if self.probe is not None and not (math.isfinite(self.probe) and self.probe >= 0):
            yield f"invalid probe: {self.probe:g} (seconds, 0 or more)", "--probe 60"
        if self.scale == 0:
            yield "invalid scale: 0 (it would remove the adapter's update)", "leave out -o scale="
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget >= 1):
            yield "the budget is a multiple of the base's size, at least 1", "--budget 1.2x"
        if self.quantize is None and (self.group_size is not None or self.mode is not None):
            yield "group_size and mode go with quantize", "-o quantize=4 -o group_size=64"
        if self.quantize is not None and (self.precision != "auto" or self.budget is not None):
            yield "-o quantize= excludes --as and --budget", "leave it or them out"
        if self.prefer not in (None, *PREFERRED):
            yield f"unknown prefer {str(self.prefer)[:40]!r}", f"-o prefer={'|'.join(PREFERRED)}"
        if self.prefer == "speed" and not self.may_prefer:
            yield "-o prefer=speed excludes --as, --budget, --recipe and -o quantize=", "leave it or them out"
        if self.mode is not None and self.mode not in MODES:
            yield f"unknown mode {self.mode[:40]!r}", f"-o mode={'|'.join(MODES)}"
        if self.recipe is not None and self.says_how:
            others = "with --recipe: --min-fidelity, --accept-loss, --accept-foreign, --publish"
            yield "a recipe says how to fuse, and nothing can be said besides", others

    @property
    def says_how(self) -> bool:
        """Something of the recipe is asked for."""
        besides = ("recipe", "base", "min_fidelity", "accept_loss", "accept_foreign", "probe", "prefer")
        return any(getattr(self, one.name) != one.default for one in fields(self) if one.name not in besides)

    @property
    def may_prefer(self) -> bool:
        """Whether `auto` chooses the format, whatever its size."""
        return self.precision == "auto" and not (self.budget or self.quantize or self.recipe)

    @property
    def others(self) -> list[str]:
        """The further adapters and the base model, as they are named."""
        return [*(name for name, _ in self.extras), *([] if self.base is None else [self.base])]

    def with_others(self, names: Sequence[str]) -> FuseRequest:
        """Return the request with other names for the further adapters and the base model."""
        weights = [weight for _, weight in self.extras]
        extras = tuple(zip(names[: len(weights)], weights, strict=True))
        return replace(self, extras=extras, base=None if self.base is None else names[-1])

    @property
    def rounds_once(self) -> bool:
        """Whether DoRA is rounded at its end only."""
        by_default = self.precision == "auto" and self.quantize is None
        return by_default if self.rounding is None else self.rounding == "once"

    @property
    def quantization(self) -> Mapping[str, object] | None:
        """MLX's parameters of the requantisation."""
        if self.quantize is None:
            return None
        mode = self.mode or "affine"
        return {"bits": self.quantize, "group_size": self.group_size or MODES[mode], "mode": mode}


def parse_extra(text: str) -> tuple[str, float]:
    """Read `REF` or `REF:WEIGHT`."""
    reference, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return reference, float(weight)
    except ValueError:
        raise BadInputError(f"{weight[:40]!r} is not a number", hint="--with REF:0.5") from None


def parse_budget(text: str) -> float:
    """Read `1.2x` or `1.2`."""
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise BadInputError(f"the budget {text[:40]!r} is not a multiple", hint="--budget 1.2x")
    return float(match["factor"])


def require_meaning(precision: str, fuse_inputs: FuseInputs) -> None:
    """Refuse a precision that says nothing of a dense base."""
    if fuse_inputs.quantization is None and precision in ("dither", "mixed"):
        hint = f"fusery fuse {fuse_inputs.adapter.name}" if fuse_inputs.aware else "--as keep"
        raise BadInputError(f"{precision} is for quantised bases, {fuse_inputs.base.name} is not", hint=hint)


def require_own(recipe: Recipe, fuse_inputs: FuseInputs) -> None:
    """Refuse a recipe of an adapter that was trained otherwise, or of another base: it would mean nothing for this one."""
    name = fuse_inputs.adapter.name
    if recipe.aware != fuse_inputs.aware or (recipe.biases and not fuse_inputs.fits_biases):
        message = f"the recipe is for an adapter that was trained for another format than {name}"
        raise BadInputError(message, hint=f"fusery fuse {name}")
    as_kept = recipe.precision in fuse_inputs.aware_precisions and recipe.quantization is None
    if recipe.aware is not None and (
        recipe.scale is not None or not (as_kept or recipe.quantization == recipe.aware)
    ):
        raise _other_format(fuse_inputs)
    if recipe.calibration is not None:
        with fuse_inputs.workspace.database.read() as session:
            require_of_base(session, recipe.calibration, fuse_inputs.base)


def candidates(request: FuseRequest, fuse_inputs: FuseInputs) -> tuple[Recipe, ...]:
    """Return the recipes that may answer a request, from the smallest output to the largest."""
    aware = fuse_inputs.aware
    if aware is not None and request.scale is not None:
        raise _other_format(fuse_inputs)
    common: Mapping[str, Any] = {
        "engine": fuse_inputs.engine(quantize=request.quantize is not None),
        "scale": request.scale,
        "extras": tuple((part.digest, part.weight) for part in fuse_inputs.extras),
        "aware": aware,
    }
    once = ONCE if request.rounds_once and fuse_inputs.adapter.method == "dora" else None
    if request.quantize is not None:
        if aware is not None and request.quantization != aware:
            raise _other_format(fuse_inputs)
        return (Recipe("dequantize", quantization=request.quantization, rounding=once, **common),)
    require_meaning(request.precision, fuse_inputs)
    if aware is not None:
        # The result is in the format of the training: by `keep`, or with every layer in that format.
        for precision in fuse_inputs.aware_precisions:
            if request.precision in ("auto", precision):
                return (Recipe(precision, rounding=once, **common),)
        if request.precision != "auto":
            raise _other_format(fuse_inputs)
        common = {**common, "engine": fuse_inputs.engine(quantize=True)}
        return (Recipe("dequantize", quantization=aware, rounding=once, **common),)
    keep = Recipe("keep", rounding=once, biases=fuse_inputs.fits_biases, **common)
    # Always computed in float32 to the end.
    calibration = fuse_inputs.calibration
    fitted = calibration is not None
    # Learned scales go with the codes of one draw.
    own = fuse_inputs.learned if request.scale is None and request.seed == USUAL_SEED else None
    dither = Recipe("dither", seed=request.seed, calibration=own or calibration, fitted=fitted, **common)
    least = int((fuse_inputs.quantization or {}).get("bits", 8))
    mixed = tuple(
        Recipe("mixed", bits={"": bits}, calibration=calibration, rounding=once, **common)
        for bits in WIDER
        if bits > least
    )
    dequantize = Recipe("dequantize", rounding=once, **common)
    packed = fuse_inputs.quantization is not None
    in_mlx = (fuse_inputs.quantization or {}).get("mode") != TENSOR_SCALED
    ways = {
        "auto": (keep, *((dither, *mixed) if in_mlx else ()), dequantize) if packed else (keep,),
        "keep": (keep,),
        "dither": (dither,),
        "mixed": mixed,
        "dequantize": (dequantize,),
    }[request.precision]
    if request.prefer == "speed" and times_faster_here(fuse_inputs) >= NOTICEABLE:
        return (dequantize,)
    if not ways:
        raise BadInputError("the base has 8 bits, and mixed writes no more", hint="--as keep")
    return ways


def times_faster_here(fuse_inputs: FuseInputs) -> float:
    """Return how many times as fast mlx computes with 16 bits on this machine as in the base's format."""
    return times_faster(fuse_inputs.workspace.settings.cache, fuse_inputs.quantization)


def _other_format(fuse_inputs: FuseInputs) -> FusionUnsupportedError:
    assert fuse_inputs.aware is not None
    name = fuse_inputs.adapter.name
    message = f"{name} can only be fused into {in_words(fuse_inputs.aware)}, at its own scale"
    return FusionUnsupportedError(message, hint=f"fusery fuse {name}")
