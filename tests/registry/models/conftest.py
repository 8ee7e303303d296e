"""A GGUF file, and the folder that it is converted to; neither is to be changed."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="package")
def good_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import gguf_llama

    return gguf_llama.write_gguf(tmp_path_factory.mktemp("good") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="package")
def converted(good_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fusery.registry.models.gguf_convert import convert_gguf

    root = tmp_path_factory.mktemp("converted")
    (root / "tiny.gguf").write_bytes(good_bytes)
    convert_gguf(root / "tiny.gguf", root / "folder")
    return root / "folder"
