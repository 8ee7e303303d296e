"""A server with Caesar's adapters, shared by the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import shift_cipher_adapters
import tiny_models


@pytest.fixture(scope="session", autouse=True)
def uncompiled() -> Iterator[None]:
    import mlx.core as mx

    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture(scope="session")
def echo_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caesar's base; not to be changed."""
    return shift_cipher_adapters.make_base(tmp_path_factory.mktemp("caesar") / "base")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers in float32; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "model"
    return tiny_models.make_base(folder, dtype="float32", layers=2, hidden=64, intermediate=128)


@pytest.fixture(scope="session")
def small_adapter(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_adapter(tmp_path_factory.mktemp("small") / "a", small_base, update=0.5)
