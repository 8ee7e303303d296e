"""The ways to write the weights of a fused model, said once; `policy` says what each means."""

from __future__ import annotations

KEEP, DITHER, MIXED, DEQUANTIZE = "keep", "dither", "mixed", "dequantize"
PRECISIONS = (KEEP, DITHER, MIXED, DEQUANTIZE)

AUTO = "auto"
"""The smallest that passes: what may be asked for besides."""

CHOICES = (AUTO, *PRECISIONS)
