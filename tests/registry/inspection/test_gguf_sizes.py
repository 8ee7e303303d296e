"""The sizes of ggml's types, which are told without the `gguf` package, are that package's."""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES

from fusery.registry.gguf.read_weights import KINDS
from fusery.registry.inspection import gguf_views


def test_blocks_have_the_sizes_that_gguf_says() -> None:
    blocks = {
        int(kind): size for kind, size in GGML_QUANT_SIZES.items() if kind.name in KINDS and size[0] > 1
    }
    assert blocks == gguf_views._SIZES


def test_plain_numbers_have_the_sizes_that_gguf_says() -> None:
    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in gguf_views._PLAIN} == {
        kind: (1, size) for kind, (_, size) in gguf_views._PLAIN.items()
    }
