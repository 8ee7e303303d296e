"""Registries to damage and repair."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

Flip = Callable[[Path], None]


@pytest.fixture
def flip() -> Flip:
    """A function that flips one bit of a file, at a place chosen at random but the same in every run."""
    chance = random.Random(20261125)

    def at_random(path: Path) -> None:
        path.chmod(0o644)
        place = chance.randrange(path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(place)
            [byte] = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
        path.chmod(0o444)

    return at_random
