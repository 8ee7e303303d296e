"""The format of the written weights: for each module a target, plain numbers or a grid.

- `keep`: the base's format, fresh scales, as `mlx_lm.fuse`; with `biases`, updates that a bias can take up (QA-LoRA, arXiv:2309.14717);
- `dither`: the base's own scales, rounding at random; with a calibration codes are chosen, and `fitted` moves scales and biases;
- `mixed`: more bits for the touched modules; `dequantize`: plain numbers, as `mlx_lm.fuse --dequantize`;
- with `quantize` every layer is requantised, as `mlx_lm.convert -q` does afterwards.

DoRA is rounded after each step and written in float32, as by `mlx_lm.fuse`, or `once`, and written in the weight's format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusery.storage.errors import FormatError

from ..errors import FusionUnsupportedError
from .affine import BITS, GROUP_SIZES, Grid
from .architectures import TENSOR_SCALED
from .arithmetic import Format
from .calibration import CalibrationFile
from .grids import AFFINE, AnyGrid
from .microscaling import MODES, NVFP4, FloatGrid
from .recipe import DEQUANTIZE, DITHER, KEEP, MIXED, ONCE, OWN, PRECISIONS

_LEAST = min(GROUP_SIZES)  # MLX has no smaller affine groups; those of nvfp4 are 16 wide


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """The format in which a module is written, and how its numbers are rounded."""

    grid: AnyGrid | None  # None for plain numbers
    form: Format  # the format of the numbers, before they are quantised
    dither: bool = False  # codes move on the base's own scales; at random, unless they are shaped
    shaped: bool = False  # codes are rounded so that the error is small for the inputs of a calibration
    biases: bool = False  # if the update is constant within each group, only the biases move
    fitted: bool = False  # with `dither` and `shaped`: scales and biases move a little after the codes


@dataclass(frozen=True, slots=True)
class Quantize:
    """How to quantise every layer: bits per number, numbers that share a scale, and `affine`, `mxfp4`, `nvfp4` or `mxfp8`."""

    bits: int
    group_size: int
    mode: str = AFFINE

    def __post_init__(self) -> None:
        if self.mode == AFFINE:
            sound = self.bits in BITS and self.group_size in GROUP_SIZES
        else:
            grid = MODES.get(NVFP4 if self.mode == TENSOR_SCALED else self.mode)
            sound = grid is not None and (self.bits, self.group_size) == (grid.bits, grid.group_size)
        if not sound:
            message = f"mlx has no {self.mode[:40]} format of {self.bits} bits in groups of {self.group_size}"
            hint = "affine: 2, 3, 4, 5, 6, 8 in 32, 64, 128; mxfp4: 4 in 32; nvfp4: 4 in 16; mxfp8: 8 in 32"
            raise FusionUnsupportedError(message, hint=hint)

    def grid(self, form: Format) -> AnyGrid:
        """Return the grid for weights of a format."""
        if self.mode == TENSOR_SCALED:
            raise FusionUnsupportedError(
                "cannot quantise to NVFP4 with a scale per tensor: only bases have this format"
            )
        return Grid(self.bits, self.group_size, form) if self.mode == AFFINE else MODES[self.mode]

    def to_dict(self) -> Mapping[str, Any]:
        """Return MLX's entry in `config.json`, in its order."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """A precision and what belongs to it, as `recipe.Recipe` says; the calibration is what is known of the inputs."""

    precision: str
    bits: Mapping[str, int] = field(default_factory=dict)
    quantize: Quantize | None = None
    seed: int = 0
    calibration: CalibrationFile | None = None
    rounding: str | None = None
    biases: bool = False
    aware: Quantize | None = None
    fitted: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or self.rounding not in (None, ONCE):
            unknown = f"{self.precision[:40]!r}, rounding {str(self.rounding)[:40]!r}"
            raise FusionUnsupportedError(f"this version does not know the precision {unknown}")
        for bits in self.bits.values():
            if bits != OWN:
                Quantize(bits, _LEAST)  # raises where mlx has no such width

    @property
    def is_mixed_and_shaped(self) -> bool:
        """Whether `mixed` uses a calibration, which allows more noise (`verdict.QUIET_SHAPED_TO`)."""
        return self.precision == "mixed" and self.calibration is not None

    def target(
        self,
        path: str,
        grid: AnyGrid | None,
        plain: Format,
        columns: int,
        *,
        adapted: bool,
        rescaled: bool = False,
        switch: bool = False,
    ) -> WriteTarget:
        """Return what is written of a module, unless every layer is requantised."""
        if grid is None or self.precision == DEQUANTIZE:
            return WriteTarget(None, plain)
        if isinstance(grid, FloatGrid) and grid.tensor_scale is not None and self.precision != KEEP:
            message = f"cannot write {path} as {self.precision}: it has a scale for the whole tensor"
            raise FusionUnsupportedError(message, hint="--as keep, --as 16bit")
        sound = adapted and not rescaled and plain is grid.form and isinstance(grid, Grid)
        sound &= self.aware is None and self.precision in (DITHER, MIXED)
        shaped = sound and self._knows(path, columns, switch=switch)
        if self.precision == DITHER:
            return WriteTarget(grid, grid.form, dither=True, shaped=shaped, fitted=shaped and self.fitted)
        bits = self.bits.get(path, self.bits.get("", 8))
        if self.precision == MIXED and adapted and bits != OWN:
            size = max(grid.group_size, _LEAST)
            if columns % size:
                message = f"{path} has {columns} columns, which {MIXED} cannot cut into groups of {size}"
                raise FusionUnsupportedError(message)
            return WriteTarget(Grid(bits, size, plain), plain, shaped=shaped and size == grid.group_size)
        if not isinstance(grid, Grid):
            return WriteTarget(grid, plain)
        biases = self.biases and adapted and not rescaled and plain is grid.form and self.aware is None
        return WriteTarget(Grid(grid.bits, grid.group_size, plain), plain, biases=biases)

    def _knows(self, path: str, columns: int, *, switch: bool) -> bool:
        width = None if self.calibration is None else self.calibration.width_of(path)
        if width is None:
            return False
        if switch or width != columns:
            fault = "which is a switch layer" if switch else f"which has {columns}"
            message = f"the calibration knows {width} inputs of {path[:80]}, {fault}"
            raise FormatError(message, hint="fusery base calibrate BASE makes one that fits")
        return True
