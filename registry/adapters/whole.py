"""Whole tensors and rows in a PEFT adapter, which replace numbers of the base instead of adding to them.

`modules_to_save` and `save_embedding_layers` save modules under the base's names; `trainable_token_indices` saves whole rows as
`MODULE.token_adapter.trainable_tokens_delta` (peft 0.21.2, tuners/trainable_tokens/layer.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.errors import FuseryError
from fusery.storage.safetensors import Header, Tensor, read_header

from ..engine.affine import Grid
from ..engine.arithmetic import FORMATS, decode, encode
from ..engine.base import Base, Source
from ..engine.grids import requantized
from ..engine.matrices import StoredMatrix, matrix_of
from ..models.libraries import HEAD, every_name
from . import CONFIG, PEFT_WEIGHTS, Finding
from .patterns import Endings
from .peft_folder import ROWS, own_name
from .tensors import same_numbers

_UNTRAINED = ".original_module."
_MOST, _LONGEST = 10_000, 512
# What `trainable_token_indices` means by a list: the input embedding, and its tied head.
_EMBEDDING = re.compile(r"(.*\.)?(\w*embed\w*|wte)")


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Rows of trained tokens."""

    indices: tuple[int, ...]
    tensor: Tensor  # the rows, (tokens, columns)


@dataclass(frozen=True, slots=True)
class WholeTensors:
    """What replaces numbers of the base, by the names of the base's tensors."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, TrainedRows] = field(default_factory=dict)
    strange: Mapping[str, str] = field(default_factory=dict)
    saved: Endings = field(default_factory=Endings)
    rowed: Endings = field(default_factory=Endings)
    keeps_tied: bool = False

    def __bool__(self) -> bool:
        return bool(self.tensors or self.rows)

    def is_saved(self, name: str) -> bool:
        """Tell whether `modules_to_save` names the module of a tensor, or a module around it."""
        return bool(self.saved) and bool(self.saved.within(name.rpartition(".")[0]))


def read_whole(
    weights: Path, header: Header, names: Sequence[str], raw: Mapping[str, Any], adapted: Collection[str]
) -> tuple[WholeTensors, list[Finding]]:
    """Read which tensors of a PEFT adapter replace the base's, and what is wrong with them."""
    remarks: list[Finding] = []
    saved = raw.get("modules_to_save")
    saved = [saved] if isinstance(saved, str) else saved or []
    names_only = isinstance(saved, list) and len(saved) <= _MOST
    if not names_only or not all(isinstance(name, str) and len(name) <= _LONGEST for name in saved):
        limits = f"at most {_MOST:,} of {_LONGEST} characters"
        remarks.append(refused(f"modules_to_save in {CONFIG} is no list of names ({limits})"))
        saved = []
    tokens = raw.get("trainable_token_indices")
    rowed = Endings(tokens if isinstance(tokens, Mapping) else ())
    whole = WholeTensors(saved=Endings(saved), rowed=rowed, keeps_tied=raw.get("ensure_weight_tying") is True)
    lists = filter(None, tokens.values() if isinstance(tokens, Mapping) else [tokens])
    if not all(isinstance(one, list) and all(type(i) is int for i in one) for one in lists):
        message = f"trainable_token_indices in {CONFIG} is no list of tokens, and no lists by module"
        remarks.append(refused(message))
    called: dict[str, list[str]] = {}
    for name in names:
        tensor = header.tensors[name]
        if tensor.dtype in FORMATS and tensor.size:
            called.setdefault(own_name(name), []).append(name)
        else:
            remarks.append(refused(f"{name} is {tensor.dtype} {tensor.shape}, not numbers of a weight"))
    tensors, stored_names, rows, strange = {}, {}, {}, {}
    in_rows = {own.rpartition(".")[0] for own in called if own.endswith(f".{ROWS}")}
    for own, given in called.items():
        module, _, part = own.rpartition(".")
        chosen = _chosen(weights, header, given)
        if chosen is None:
            remarks.append(refused(f"{' and '.join(sorted(given))} are one tensor with different numbers"))
        elif module in adapted and ".base_layer." not in chosen:
            what = "trained rows" if part == ROWS else f"a whole {part}"
            remarks.append(refused(f"{module} has factors and {what} beside them, which PEFT does not load"))
        elif part == ROWS:
            trained = _trained_rows(tokens, rowed, module, header.tensors[chosen])
            if isinstance(trained, str):
                remarks.append(refused(trained))
            else:
                rows[f"{module}.weight"] = trained
        else:
            tensors[own], stored_names[own] = header.tensors[chosen], chosen
            if _is_unwrapped(chosen, module, whole, adapted, in_rows):
                strange[own] = f"{chosen} is no tensor that PEFT loads with this {CONFIG}"
    made = replace(whole, tensors=tensors, names=stored_names, rows=rows, strange=strange)
    return made, remarks or list(_absent(made, raw))


def refused(message: str, hint: str = "save it again with save_pretrained of PEFT") -> Finding:
    """Return the remark that whole tensors cannot be used."""
    return Finding("peft_full_modules", "error", PEFT_WEIGHTS, message, hint)


def _is_unwrapped(
    name: str, module: str, whole: WholeTensors, adapted: Collection[str], in_rows: Collection[str]
) -> bool:
    """Tell whether PEFT would not load a whole tensor: its module has no wrapper of that name, or trained rows alone."""
    saved, rowed = whole.is_saved(f"{module}.weight"), module in in_rows
    put_on = ".token_adapter.base_layer." in name
    return (
        (rowed and not (saved or put_on or _UNTRAINED in name))
        or (".token_adapter." in name and not (rowed and put_on))
        or (".base_layer." in name and module not in adapted and not rowed)
        or (".modules_to_save." in name and not saved)
        or (_UNTRAINED in name and not rowed)
    )


def _chosen(weights: Path, header: Header, names: Sequence[str]) -> str | None:
    """Return which of several names of one tensor has its numbers; None where they differ."""
    trained = sorted((name for name in names if _UNTRAINED not in name), key=lambda name: (len(name), name))
    if not trained:
        return names[0] if len(names) == 1 else None
    first, *others = trained
    alike = (same_numbers(weights, header.tensors[first], header.tensors[other]) for other in others)
    return first if all(alike) else None


def _trained_rows(declared: Any, rowed: Endings, module: str, tensor: Tensor) -> TrainedRows | str:
    """Return the rows that the configuration declares of a module, or what is wrong: a list is for the embedding, and a tied head."""
    if isinstance(declared, Mapping):
        declared = declared.get(rowed.of(module))
    elif not _EMBEDDING.fullmatch(module) and module.rpartition(".")[2] != "lm_head":
        declared = None
    if not isinstance(declared, list) or not all(type(index) is int for index in declared):
        return f"trainable_token_indices in {CONFIG} does not say which rows of {module} were trained"
    if len(tensor.shape) != 2 or tensor.shape[0] != len(declared):
        return f"{module} has rows of the shape {tensor.shape} for {len(declared)} trained tokens"
    if len(set(declared)) != len(declared) or min(declared, default=0) < 0:
        return f"trainable_token_indices names negative tokens of {module}, or one more than once"
    return TrainedRows(tuple(declared), tensor)


def _absent(whole: WholeTensors, raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a remark on what the configuration says was trained whole and is not in the file."""
    meant = set[str]().union(*(whole.saved.within(name.rpartition(".")[0]) for name in whole.tensors))
    if lost := [saved for saved in whole.saved if saved not in meant]:
        yield refused(f"modules_to_save names {lost[0]}, which {PEFT_WEIGHTS} does not hold")
    tokens = raw.get("trainable_token_indices")
    # A list is of the embedding, whatever that is called; what is tied to it has no rows of its own in the file.
    wanted = tokens.values() if isinstance(tokens, Mapping) else [tokens] if tokens else []
    held = {frozenset(rows.indices) for rows in whole.rows.values()}
    if any(isinstance(rows, list) and frozenset(rows) not in held for rows in wanted):
        yield refused(f"trainable_token_indices names tokens of which {PEFT_WEIGHTS} holds no rows")


# How a whole tensor may relate to the base's: equal, or the numbers that the base's were quantised from.
COPY, QUANTISED_COPY = "copy", "quantised copy"
_BLOCK = 1 << 22  # numbers that are compared at a time
_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "transformer.wte.weight",
)


def likenesses(base: Base, weights: Path, names: Iterable[str]) -> dict[str, str]:
    """Return which tensors in an adapter's file are the base's, by name, and how; not those that cannot be compared."""
    sources = {name: Source(_OWN, tensor) for name, tensor in read_header(weights).tensors.items()}
    own = Base({_OWN: weights}, {}, sources, all_linear=False)
    copies = {}
    for name in names:
        with suppress(OSError, FuseryError):
            if likeness := _likeness(matrix_of(own, name), own_name(name), base):
                copies[name] = likeness
    return copies


_OWN = "adapter"


def _likeness(copy: StoredMatrix, name: str, base: Base) -> str | None:
    name = next((other for other in every_name(name) if other in base.tensors), name)
    if name in ("lm_head.weight", f"{HEAD}.weight") and name not in base.tensors:  # the head is the embedding
        name = next((embedding for embedding in _EMBEDDINGS if embedding in base.tensors), name)
    own = matrix_of(base, name) if name in base.tensors and copy.shape else None
    if own is None or own.shape != copy.shape or not (own.grid is None or isinstance(own.grid, Grid)):
        return None
    step = max(1, _BLOCK // max(1, copy.width))
    for first in range(0, copy.shape[0], step):
        count = min(step, copy.shape[0] - first)
        values, expected = copy.numbers(first, count), own.numbers(first, count)
        if own.grid is not None:
            if not np.array_equal(decode(encode(values, own.form), own.form), values):
                return None  # the base was quantised from other numbers than these, which have more bits
            groups = np.ascontiguousarray(values.reshape(-1, own.grid.group_size).T)
            values = requantized(groups, own.grid, own.form).T
        if not np.array_equal(values.reshape(expected.shape), expected):
            return None
    return COPY if own.grid is None else QUANTISED_COPY
