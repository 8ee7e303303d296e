"""PEFT's form of an adapter as every server computes it alike: one rank, one whole alpha, plain LoRA.

Servers read less than PEFT writes: LoRAX and llama.cpp's converter pass over `rank_pattern` and `alpha_pattern`, the
converter over `use_rslora`, LoRAX over `use_dora`, and Ollama takes whole numbers as `lora_alpha` only.  Whatever is
passed over gives wrong numbers without a word, so it is multiplied into the factors here, or refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.storage.errors import FormatError

from ..errors import BadInputError
from .files import PEFT_WEIGHTS
from .mlx_form import plan_mlx
from .patterns import PatternError
from .peft_folder import PREFIX, PeftModule, some
from .reading import read_peft
from .tensors import Stored, multiplied, padded, read_stored, widened
from .trained_through import kept_entries

if TYPE_CHECKING:
    from ..models.architecture import Architecture, Weight

OWN_SERVER = "--target adapters, which has a server of its own"
"""The hint for adapters that other servers cannot compute, and mlx-lm can."""

_MOST = 1 << 20
"""A whole alpha up to which every server's arithmetic is exact."""


@dataclass(frozen=True, slots=True)
class Factors:
    """The two factors of a module's update, which is alpha / rank times their product.

    Attributes:
        a: (rank, in); of an embedding (rank, rows).
        b: (out, rank); of an embedding (columns, rank).
        embedding: it is one.
    """

    a: Stored
    b: Stored
    embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that they fit."""
        shape = (int(self.b.bits.shape[0]), int(self.a.bits.shape[1]))
        return shape[::-1] if self.embedding else shape


@dataclass(frozen=True, slots=True)
class PlainAdapter:
    """An adapter that every server computes alike.

    Attributes:
        rank: of all modules.
        alpha: a whole number.
        modules: by path.
        raw: the configuration that it was read from.
    """

    rank: int
    alpha: int
    modules: Mapping[str, Factors]
    raw: Mapping[str, Any]

    def config(self, base: str | None) -> dict[str, Any]:
        """Return `adapter_config.json`.

        Args:
            base: what the base is called where it is served.
        """
        layers = self.raw.get("layers_to_transform")
        return {
            "alpha_pattern": {},
            "base_model_name_or_path": base,
            "bias": "none",
            "exclude_modules": self.raw.get("exclude_modules"),
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            # PEFT refuses a pattern without layers.
            "layers_pattern": None if layers is None else self.raw.get("layers_pattern"),
            "layers_to_transform": layers,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "target_modules": self.raw.get("target_modules"),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
            **kept_entries(self.raw),
        }

    def tensors(self) -> Iterator[tuple[str, Stored]]:
        """Yield the tensors of `adapter_model.safetensors`."""
        for path, module in self.modules.items():
            first, second = (
                ("lora_embedding_A", "lora_embedding_B")
                if module.embedding
                else ("lora_A.weight", "lora_B.weight")
            )
            yield f"{PREFIX}{path}.{first}", module.a
            yield f"{PREFIX}{path}.{second}", module.b

    def in_every_layer(self, layers: Mapping[int, Mapping[str, Weight]], stem: str) -> PlainAdapter:
        """Return the same adapter with updates of zero where a module is adapted in some layers only.

        Args:
            layers: of the base: number to path within the layer to weight.
            stem: the path before the number.
        """
        filled = dict(self.modules)
        for number, weights in layers.items():
            for key, weight in weights.items():
                path = f"{stem}.{number}.{key}"
                if path not in filled and (like := self._like(stem, key)) is not None:
                    out, into = weight.shape[0], weight.shape[-1]
                    zeros = [
                        np.zeros(shape, like.a.bits.dtype) for shape in ((self.rank, into), (out, self.rank))
                    ]
                    filled[path] = Factors(Stored(like.a.dtype, zeros[0]), Stored(like.a.dtype, zeros[1]))
        if len(filled) == len(self.modules):
            return self
        names = sorted({path.rpartition(".")[2] for path in filled})
        everywhere = {"target_modules": names, "layers_to_transform": None, "exclude_modules": None}
        return replace(self, modules=dict(sorted(filled.items())), raw={**self.raw, **everywhere})

    def _like(self, stem: str, key: str) -> Factors | None:
        return next(
            (
                each
                for path, each in self.modules.items()
                if path.startswith(f"{stem}.") and path.endswith(f".{key}")
            ),
            None,
        )


def read_plain(name: str, files: Mapping[str, Path]) -> PlainAdapter:
    """Read an adapter in PEFT's form and make it plain.

    Args:
        name: the adapter's, for errors.
        files: its two files by name.

    Raises:
        BadInputError: it is DoRA or QA-LoRA, or adapts experts, which no server computes.
        FormatError: the files are not those of an adapter that was admitted.
    """
    found = read_peft(files)
    if found.config is None or found.header is None:
        raise FormatError(f"{PEFT_WEIGHTS} of {name} is not an adapter that can be read")
    if found.config.use_dora or any(module.m is not None for module in found.modules.values()):
        raise BadInputError(
            f"{name} is a DoRA, which this target's server does not compute",
            hint=OWN_SERVER,
        )
    if found.config.use_qalora:
        raise BadInputError(
            f"{name} is a QA-LoRA, which this target's server does not compute",
            hint=OWN_SERVER,
        )
    if found.config.target_parameters:
        raise BadInputError(
            f"{name} adapts experts or their router as parameters (target_parameters), which this target's server does not compute",
            hint=OWN_SERVER,
        )
    bare = sorted(path for path, module in found.modules.items() if module.a is None or module.b is None)
    if bare or not found.modules:
        raise FormatError(f"{name} has modules without both factors: {some(bare)}")
    try:
        plan = plan_mlx(found.config, found.modules)
        scales = {path: found.config.scale_of(path) for path in found.modules}
    except PatternError as error:
        raise FormatError(f"the configuration of {name} holds {error}") from error
    alpha = plan.scale * plan.rank
    whole = float(alpha).is_integer() and 0 < alpha < _MOST
    factors = plan.factors if whole else scales
    weights = files[PEFT_WEIGHTS]
    modules = {
        path: _factors(weights, module, factors[path], plan.rank) for path, module in found.modules.items()
    }
    return PlainAdapter(plan.rank, int(alpha) if whole else plan.rank, _of_one_dtype(modules), found.raw)


def matched_modules(name: str, adapter: PlainAdapter, base: Architecture) -> int:
    """Return how many modules of a base an adapter changes: all that it has.

    Raises:
        BadInputError: the base has no such module, or one of another shape: a server would pass over it or fail.
    """
    for path, module in adapter.modules.items():
        weight = base.weights.get(path)
        if weight is None or tuple(weight.shape) != module.shape:
            raise BadInputError(
                f"{name} has an update of {path}, and its base has no such module of that shape"
            )
    return len(adapter.modules)


def _factors(path: Path, module: PeftModule, factor: float, rank: int) -> Factors:
    assert module.a is not None
    assert module.b is not None
    a, (b, _) = read_stored(path, module.a), multiplied(read_stored(path, module.b), factor)
    return Factors(padded(a, 0, rank), padded(b, 1, rank), module.embedding)


def _of_one_dtype(modules: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return factors of one dtype: float32 where they have several."""
    dtypes = {each.dtype for module in modules.values() for each in (module.a, module.b)}
    if len(dtypes) == 1:
        return dict(modules)
    return {
        path: replace(module, a=widened(module.a), b=widened(module.b)) for path, module in modules.items()
    }
