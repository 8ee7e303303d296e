"""What an adapter's numbers are like, as the rules see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What one tensor's numbers are like.

    Attributes:
        name: the tensor.
        finite: no NaN and no infinity.
        zero: every number is zero.
        low: the smallest number; NaN where one is NaN.
        high: the largest number; NaN where one is NaN.
        clipped: share of numbers that equal the largest or the smallest one, unless all are equal.
    """

    name: str
    finite: bool
    zero: bool
    low: float
    high: float
    clipped: float


@dataclass(frozen=True, slots=True)
class Values:
    """What an adapter's numbers are like.

    Attributes:
        tensors: of each floating-point tensor, by name.
        norms: Frobenius norm of `B A`, without the scale, of each module with both factors, by path.
        uneven: the modules whose A differs within the groups of inputs that it is said to be constant in.
    """

    tensors: Mapping[str, TensorValues] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    uneven: Sequence[str] = ()
