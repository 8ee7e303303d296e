"""The sizes of ggml's types, which are told without the `gguf` package, are that package's."""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES

from fusery.registry.gguf.read_weights import KINDS
from fusery.registry.inspection import gguf_views


def test_sizes_are_those_of_gguf() -> None:
    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    blocks = {int(kind) for kind, size in GGML_QUANT_SIZES.items() if kind.name in KINDS and size[0] > 1}
    assert {kind: sizes[kind] for kind in blocks} == gguf_views._SIZES
    assert {kind: (1, size) for kind, (_, size) in gguf_views._PLAIN.items()} == {
        kind: sizes[kind] for kind in gguf_views._PLAIN
    }
