"""Fuses to try: a base of some architecture and format, an adapter of some kind, and what is to come out.

A case is made by name, so that a list of cases is a list of words.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import adapters_by_class
import tiny_architectures
import tiny_models
from adapters_by_class import within_block

from fusery.registry.engine.config import INDEX
from fusery.storage.safetensors import read_header

MOE = ("mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss", "glm4_moe", "llama4")
"""Architectures with experts."""

DENSE = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "cohere2", "stablelm")

FLOATS: dict[str, dict[str, Any]] = {
    name: {"dtype": dtype} for name, dtype in (("bf16", "bfloat16"), ("f16", "float16"), ("f32", "float32"))
}
QUANTIZED: dict[str, dict[str, Any]] = {
    "2bit": {"bits": 2, "group_size": 32},
    "3bit": {"bits": 3, "group_size": 64},
    "4bit": {"bits": 4, "group_size": 32},
    "5bit": {"bits": 5, "group_size": 32, "dtype": "float16"},
    "6bit": {"bits": 6, "group_size": 64, "dtype": "float32"},
    "8bit": {"bits": 8, "group_size": 32},
    "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "mxfp8": {"bits": 8, "group_size": 32, "mode": "mxfp8", "dtype": "float16"},
    "nvfp4": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    "mixed": {},
}
FORMATS = FLOATS | QUANTIZED

MIXED: dict[str, dict[str, Any] | bool] = {
    "v_proj": False,
    "o_proj": {"bits": 8, "group_size": 32},
    "down_proj": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "up_proj": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    "embed_tokens": {"bits": 6, "group_size": 64},
}
"""How modules of the format `mixed` are quantised, by the ends of their paths; the others with 4 bits."""

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-bf16-r1": {"dtype": "bfloat16", "rank": 1},
    "lora-f16-last": {"dtype": "float16", "num_layers": 1, "scale": 2.5},
    "lora-r64": {"rank": 64},
    "partial": {"rank": 3},
    "embedding": {"rank": 5},
    "experts": {"rank": 4, "scale": 1.0},
    "dora": {"kind": "dora"},
    "dora-bf16-r1": {"kind": "dora", "dtype": "bfloat16", "rank": 1, "num_layers": 1},
    "dora-embedding": {"kind": "dora", "rank": 2},
    "full": {"kind": "full", "num_layers": 1},
}
KEEP, DEQUANTIZE = "keep", "dequantize"
LAYOUTS = ("mlx", "hf")

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    architecture: str
    form: str
    adapter: str
    precision: str = KEEP
    layout: str = "mlx"

    def __str__(self) -> str:
        return f"{self.architecture} {self.form} {self.adapter} {self.precision} {self.layout}"

    @property
    def possible(self) -> bool:
        """Whether mlx-lm can do it, and right (docs/internals/arithmetic.md)."""
        quantized = self.form in QUANTIZED
        if quantized and (self.layout == "hf" or self.adapter == "dora-embedding"):
            return False
        if self.adapter == "experts" and self.architecture not in MOE:
            return False
        if self.adapter.startswith("dora") and self.form in ("3bit", "5bit", "6bit"):
            return False  # mlx-lm divides 32 by the bits and rounds, and takes the layer for a narrower one
        if self.architecture == "deepseek_v3" and self.precision == DEQUANTIZE:
            return False  # the matrices of each head stay packed, and the result cannot be loaded
        return quantized or self.precision == KEEP

    @property
    def pairs(self) -> frozenset[Pair]:
        words = (self.architecture, self.form, self.adapter, self.precision, self.layout)
        return frozenset(combinations(words, 2))


def all_pairs(names: Iterable[str]) -> list[Case]:
    """Return cases in which every architecture meets every format, and any two words of a case meet where they can."""
    names = tuple(names)
    rest = list(product(ADAPTERS, (KEEP, DEQUANTIZE), LAYOUTS))
    possible = [
        [case for words in rest if (case := Case(name, form, *words)).possible]
        for form, name in product(FORMATS, names)
    ]
    used: Counter[Pair] = Counter()
    found = []
    for cases in possible:
        found.append(_best(cases, used))
        used.update(found[-1].pairs)
    everything = [case for cases in possible for case in cases]
    missing = {pair for case in everything for pair in case.pairs} - used.keys()
    return found + cover(everything, missing)


def cover(cases: Iterable[Case], pairs: Iterable[Pair]) -> list[Case]:
    missing = Counter(pairs)
    found = []
    while missing:
        best = max(cases, key=lambda case: sum(missing[pair] for pair in case.pairs))
        found.append(best)
        for pair in best.pairs:
            missing.pop(pair, None)
    return found


def _best(cases: Iterable[Case], used: Counter[Pair]) -> Case:
    """Return the case with the most new pairs, and of those the one whose pairs were used least."""

    def worth(case: Case) -> tuple[int, int]:
        counts = [used[pair] for pair in case.pairs]
        return counts.count(0), -sum(counts)

    return max(cases, key=worth)


def make_base(folder: Path, case: Case, seed: int = 0) -> Path:
    if case.form == "mixed":
        dense = tiny_architectures.make_architecture(folder.with_name("dense"), case.architecture, seed=seed)
        return quantize_mixed(folder, dense)
    options = {"layout": case.layout, "seed": seed, **FORMATS[case.form]}
    return tiny_architectures.make_architecture(folder, case.architecture, **options)


def make_adapter(folder: Path, base: Path, case: Case) -> Path:
    options: dict[str, Any] = dict(ADAPTERS[case.adapter])
    linear, switch = (adapters_by_class.paths_of(base, kind) for kind in ("linear", "switch"))
    inside = [path for path in linear if within_block(path) != path]
    within = sorted({within_block(path) for path in inside})
    if case.adapter == "experts":
        options["keys"] = sorted({within_block(path) for path in switch})
    elif case.adapter in ("embedding", "dora-embedding"):
        heads = [path for path in linear if path not in inside]
        options["keys"] = [*adapters_by_class.paths_of(base, "embedding"), *heads, within[-1]]
    elif case.adapter.startswith("dora") and switch:
        options["keys"] = within  # there is no DoRA on experts
    elif case.adapter == "partial":
        options["skip"] = (inside + switch)[::2]
    return adapters_by_class.make_adapter(folder, base, **options)


def quantize_mixed(folder: Path, dense: Path) -> Path:
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model

    def choose(path: str, module: Any) -> dict[str, Any] | bool:
        return MIXED.get(path.rpartition(".")[2], hasattr(module, "to_quantized"))

    config = json.loads((dense / "config.json").read_text())
    model = adapters_by_class.load_lazily(dense)
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(model, config, 32, 4, quant_predicate=choose)
    tiny_architectures.write_base(folder, dict(tree_flatten(model.parameters())), config, "mlx")
    return folder


def assert_same(theirs: Path, ours: Path) -> None:
    """Assert that mlx-lm has the same tensors of two folders, and that `config.json` and the index are the same."""
    expected, found = tiny_models.read_tensors(theirs), mlx_tensors(ours)
    assert found.keys() == expected.keys()
    assert {name: found[name][:2] for name in found} == {name: expected[name][:2] for name in expected}
    assert [name for name in expected if found[name] != expected[name]] == []
    assert (ours / "config.json").read_bytes() == (theirs / "config.json").read_bytes()
    index, theirs_index = (json.loads((folder / INDEX).read_text()) for folder in (ours, theirs))
    assert index["metadata"] == theirs_index["metadata"]
    assert index["weight_map"].keys() == tiny_models.read_tensors(ours).keys()
    if in_mlx_layout(ours):
        assert (ours / INDEX).read_bytes() == (theirs / INDEX).read_bytes()


def in_mlx_layout(folder: Path) -> bool:
    return all(read_header(path).metadata["format"] == "mlx" for path in folder.glob("model*.safetensors"))


def mlx_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the tensors of a model by the names of mlx-lm's modules: one in the base's layout is loaded by mlx-lm."""
    if in_mlx_layout(folder):
        return tiny_models.read_tensors(folder)
    from mlx_lm.utils import load_model, save_model

    with TemporaryDirectory() as scratch:
        save_model(Path(scratch), load_model(folder, lazy=True)[0])
        return tiny_models.read_tensors(Path(scratch))
