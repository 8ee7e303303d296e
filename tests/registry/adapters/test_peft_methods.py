"""What is said to the owner of an adapter that PEFT made in another way: each hint is followed with the real PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft_folders import real_peft

from fusery.registry import Registry
from fusery.registry.adapters import Finding
from fusery.registry.adapters.peft_config import UNFUSABLE
from fusery.registry.admission.code import AdmissionError

pytestmark = pytest.mark.slow

PLAIN: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
RANKED = PLAIN | {"r": 4}
VIRTUAL: dict[str, Any] = {"num_virtual_tokens": 4}
# Fields of methods that do not do with the same modules as most.
METHODS: dict[str, dict[str, Any]] = {
    "ADALORA": PLAIN | {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": "self_attn"},
    "BOFT": PLAIN | {"boft_block_size": 16},
    "C3A": PLAIN | {"block_size": 16},
    "CARTRIDGE": VIRTUAL,
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "FOURIERFT": PLAIN | {"n_frequency": 50},
    "IA3": {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "OFT": PLAIN | {"oft_block_size": 16},
    "P_TUNING": VIRTUAL,
    "PREFIX_TUNING": VIRTUAL,
    "PROMPT_TUNING": VIRTUAL,
    "VBLORA": PLAIN | {"num_vectors": 16, "vector_length": 16, "topk": 2},
    "VERA": RANKED,
}
# Methods that need another package, several adapters or more than text to run: they are in the tables by what
# PEFT says of them.
NOT_MADE = {"MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA"}


def follow(folder: Path, method: str, fields: dict[str, Any], **base: Any) -> list[str]:
    return real_peft("follow", folder, method, json.dumps(fields), json.dumps(base))


def errors(registry: Registry, folder: Path) -> list[Finding]:
    name = f"base-{folder.name}"
    registry.bases.add(folder / "base", name=name)
    with pytest.raises(AdmissionError) as caught:
        registry.adapters.register(folder / "adapter", base=name, task="one")
    return [finding for finding in caught.value.findings if finding.severity == "error"]


@pytest.fixture(scope="module")
def registry(module_registry: Registry) -> Registry:
    return module_registry


@pytest.mark.parametrize("method", sorted({*UNFUSABLE, *METHODS, "BEFT", "LOKR", "HRA"} - NOT_MADE))
def test_the_hint_of_a_method_works(registry: Registry, tmp_path: Path, method: str) -> None:
    # BEFT trains the layers' biases, which have to be there.
    done = follow(tmp_path, method, METHODS.get(method, PLAIN), attention_bias=method == "BEFT")
    (found,) = errors(registry, tmp_path)
    assert found.code == "peft_method"
    assert found.message.startswith(f"PEFT's peft_type ({method}) is ")
    assert ("merge_and_unload" in found.hint) == (done[0] == "same")
    assert "save_as_lora" in found.hint or "lora" not in done


def test_biases_are_not_merged_into_layers_without_biases(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no bias"):  # what PEFT says
        follow(tmp_path, "BEFT", PLAIN)


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a bias on layers without": ({"lora_bias": True}, {}),
    "a bias on layers with one": ({"lora_bias": True}, {"attention_bias": True}),
    "biases": ({"bias": "all"}, {"attention_bias": True}),
    "a tied embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, {"tie_word_embeddings": True}),
    "tied adapters": (
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        {"tie_word_embeddings": True},
    ),
    "an embedding with DoRA": ({"target_modules": ["embed_tokens"], "use_dora": True}, {}),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 2]]}, {}),
    "PiSSA": ({"init_lora_weights": "pissa"}, {}),
    "a parameter": ({"target_modules": [], "target_parameters": ["self_attn.q_proj.weight"]}, {}),
}


@pytest.mark.parametrize("case", FIELDS)
def test_the_hint_of_a_field_works(registry: Registry, tmp_path: Path, case: str) -> None:
    fields, base = FIELDS[case]
    done = follow(tmp_path, "LORA", RANKED | fields, **base)
    hints = [finding.hint for finding in errors(registry, tmp_path)]
    advised = [hint for hint in hints if "merge it with PEFT" in hint]
    if case == "a bias on layers without":  # the hint says so
        assert done[0] == "refused"
        assert all(
            "where the base's layers have biases, merge" in hint and "cannot merge it" in hint
            for hint in advised
        )
    else:
        assert bool(advised) == (done[0] == "same"), hints
