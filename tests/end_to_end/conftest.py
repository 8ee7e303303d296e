"""A user with a registry, for tests that run the installed program."""

from __future__ import annotations

from pathlib import Path

import pytest
import tinymodels
from installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """A user who has trained two adapters and has a registry with the base in it."""
    base = tinymodels.make_base(tmp_path / "tiny", layers=2)
    made = Installation(
        tmp_path,
        base,
        tinymodels.make_adapter(tmp_path / "first", base, seed=1),
        tinymodels.make_adapter(tmp_path / "second", base, seed=2, rank=4),
    )
    made.run("init")
    made.run("base", "add", base, "--name", "tiny")
    return made
