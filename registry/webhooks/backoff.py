"""When a delivery that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting that doubles with each attempt, up to a limit, and a little shorter by chance so that many do not come at once.

    Attributes:
        first: seconds to wait after the first attempt.
        most: seconds to wait at most.
        chance: returns a number from 0 to 1.
    """

    first: float = 1.0
    most: float = 3600.0
    chance: Callable[[], float] = random.random

    def after(self, attempts: int) -> float:
        """Return how many seconds to wait after so many failed attempts: from three quarters of what doubling gives to all of it."""
        doublings = min(max(attempts, 1) - 1, 64)  # a float holds no more of them
        return min(self.most, self.first * 2.0**doublings) * (1 - self.chance() / 4)
