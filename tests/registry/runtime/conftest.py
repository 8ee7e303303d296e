"""Small models, shared by the tests of one session."""

from __future__ import annotations

from pathlib import Path

import pytest
import shift_cipher_adapters
import tiny_models


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers in float32; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "model"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)


@pytest.fixture(scope="session")
def echo_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caesar's base; not to be changed."""
    return shift_cipher_adapters.make_base(tmp_path_factory.mktemp("caesar") / "base")
