"""The ways to write the weights of a fused model, said once; `policy` says what each means."""

from __future__ import annotations

from typing import Final, Literal

Precision = Literal["keep", "dither", "mixed", "dequantize"]
RequestedPrecision = Literal["auto", "keep", "dither", "mixed", "dequantize"]

KEEP: Final = "keep"
DITHER: Final = "dither"
MIXED: Final = "mixed"
DEQUANTIZE: Final = "dequantize"
PRECISIONS: tuple[Precision, ...] = (KEEP, DITHER, MIXED, DEQUANTIZE)

AUTO: Final = "auto"
"""The smallest that passes: what may be asked for besides."""

CHOICES: tuple[RequestedPrecision, ...] = (AUTO, *PRECISIONS)
