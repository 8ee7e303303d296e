"""A user with a registry, for tests that run the installed program."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """A user who has trained two adapters and has a registry with the base in it."""
    base = tiny_models.make_base(tmp_path / "tiny", layers=2)
    made = Installation(
        tmp_path,
        base,
        tiny_models.make_adapter(tmp_path / "first", base, seed=1),
        tiny_models.make_adapter(tmp_path / "second", base, seed=2, rank=4),
    )
    made.run("admin", "init")
    made.run("base", "add", base, "--name", "tiny")
    return made
