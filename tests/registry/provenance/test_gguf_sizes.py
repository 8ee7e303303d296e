"""What a GGUF file holds, told without the `gguf` package: tensors under Hugging Face's names, and texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES

from fusery.registry.models.gguf_convert import KINDS
from fusery.registry.models.gguf_header import GGUFHeader, TensorEntry
from fusery.registry.provenance import views
from fusery.storage.errors import FormatError


def test_sizes_are_those_of_gguf() -> None:
    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    blocks = {int(kind) for kind, size in GGML_QUANT_SIZES.items() if kind.name in KINDS and size[0] > 1}
    assert {kind: sizes[kind] for kind in blocks} == views._SIZES
    assert {kind: (1, size) for kind, (_, size) in views._PLAIN.items()} == {
        kind: sizes[kind] for kind in views._PLAIN
    }


NAMES = {
    "blk.3.attn_q.weight": ("model.layers.3.self_attn.q_proj.weight", 16),
    "blk.0.attn_k.weight.lora_b": ("model.layers.0.self_attn.k_proj.lora_b", 16),
    "blk.0.attn_k.weight.lora_a": ("model.layers.0.self_attn.k_proj.lora_a", None),
    "blk.0.attn_v.weight": ("model.layers.0.self_attn.v_proj.weight", None),
    "token_embd.weight": ("model.embed_tokens.weight", None),
    "blk.0.unknown.weight": ("blk.0.unknown.weight", None),
}


def header(size: int, **more: object) -> GGUFHeader:
    entries = {name: TensorEntry(name, (16, 3), 0, 300 * at) for at, name in enumerate(NAMES)}
    keys = {"general.architecture": "llama", "llama.attention.head_count": 4, "llama.embedding_length": 64}
    return GGUFHeader({**keys, **more}, entries, 100, size)  # type: ignore[arg-type]


def test_tensors_have_their_names_and_heads() -> None:
    end = 100 + 300 * 5 + 4 * 48
    found = views.gguf_views(Path("x"), header(end))
    assert [(view.name, view.head) for view in found] == list(NAMES.values())
    assert [view.begin for view in found] == [100 + 300 * at for at in range(6)]
    assert {view.size for view in found} == {4 * 48}
    assert views.gguf_views(Path("x"), header(end, **{"llama.attention.key_length": 8}))[0].head == 8
    other = views.gguf_views(Path("x"), header(end, **{"general.architecture": "qwen2"}))
    assert {view.head for view in other} == {None}
    with pytest.raises(FormatError):
        views.gguf_views(Path("x"), header(end - 1))


def test_texts_begin_with_a_prefix() -> None:
    texts = views.gguf_texts(header(0, **{"general.name": "x" * 1001}), "general.")
    assert texts == {"general.architecture": "llama", "general.name": "x" * 1000}
    assert views.gguf_texts(header(0), "llama.") == {}
