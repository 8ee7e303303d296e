"""Damaged safetensors headers: refused in one sentence, or read as the library reads them; a million in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random, randrange

import pytest
from fuzz.header_files import Place, hold, make

SOAK = "FUSERY_SOAK" in os.environ
COUNT = 20_000 if SOAK else 10_000
FIRST = randrange(1 << 32) if SOAK else 1
SEEDS = range(FIRST, FIRST + (50 if SOAK else 1))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path / "t.safetensors") as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_many_headers(seed: int, place: Place) -> None:
    random = Random(seed)
    accepted = sum(hold(make(random), place) for _ in range(COUNT))
    # The fuzzer must reach both sides to be worth anything.
    assert COUNT // 20 < accepted < COUNT // 2
