"""A real language model with an adapter that PEFT trained on it: found again in what people make of it."""

from __future__ import annotations

from pathlib import Path

import altered_models
import peft_folders
import pytest
from course_bundles import model_file
from identification_registry import KEEP

from fusery.registry import Registry
from fusery.registry.gguf.convert import convert_gguf

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

NAME = "real_v1_20260115"
CHANGED = "model.layers.12.mlp.down_proj.weight"


def test_a_real_model_is_found_again(tmp_path: Path) -> None:
    base = tmp_path / "SmolLM2-135M-Instruct"
    convert_gguf(model_file(), base)
    with Registry.open(tmp_path / "home") as registry:
        registry.init()
        registry.bases.add(base, name="smollm2")
        registry.adapters.register(peft_folders.REAL / "lora", base="smollm2", task="real", date="20260115")
        fused = registry.fused.fuse(NAME, KEEP)
        changed = altered_models.saved_anew(fused.path, tmp_path / "x", altered_models.touched(CHANGED))
        cases = (
            (altered_models.as_gguf(base, tmp_path / "base.gguf", "f16"), "base", "smollm2", []),
            (altered_models.as_gguf(fused.path, tmp_path / "small.gguf", "q8_0"), "fused", NAME, []),
            (changed, "fused", NAME, [CHANGED]),
        )
        for path, kind, name, tensors in cases:
            match, *others = registry.provenance.identify(path).matches
            assert (match.kind, match.name, others) == (kind, name, []), path
            assert match.to_dict()["changed"] == tensors
        assert "fused onto smollm2 (keep), but in layer 12" in match.sentence
        model = registry.provenance.identify(fused.path)
        assert (model.matches[0].name, model.intact) == (NAME, True)
