"""A small model, shared by the tests of one session."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers in float32; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "model"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)
