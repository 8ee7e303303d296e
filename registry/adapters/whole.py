"""Whole tensors and rows in a PEFT adapter, which replace numbers of the base instead of adding to them.

`modules_to_save` saves whole modules, `save_embedding_layers` the embedding and the head, both under the base's own names,
sometimes within wrappers; `trainable_token_indices` saves rows of an embedding as `MODULE.token_adapter.trainable_tokens_delta`,
(tokens, columns), which are the rows themselves and no differences (peft 0.21.2, tuners/trainable_tokens/layer.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.errors import FormatError, FuseryError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Header, Tensor, read_header

from ..engine.affine import pack_rows
from ..engine.arithmetic import FORMATS, Array, decode, encode
from ..engine.config import weight_names
from ..engine.grids import affine_grid
from ..models.libraries import HEAD, every_name
from .files import CONFIG, PEFT_WEIGHTS
from .finding import Finding
from .patterns import Endings
from .peft_folder import ROWS, own_name
from .tensors import same_numbers

_UNTRAINED = ".original_module."
_MOST, _LONGEST = 10_000, 512
_EMBEDDING = re.compile(r"(.*\.)?(\w*embed\w*|wte)")
"""What `trainable_token_indices` means by a list: the input embedding, and its tied head."""


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Rows of trained tokens.

    Attributes:
        tensor: the rows, (tokens, columns).
    """

    indices: tuple[int, ...]
    tensor: Tensor
    name: str


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
        """Whether there is anything."""
        return bool(self.tensors or self.rows)

    def is_saved(self, name: str) -> bool:
        """Tell whether `modules_to_save` names the module of a tensor, or one that it lies in."""
        return bool(self.saved) and bool(self.saved.within(name.rpartition(".")[0]))

    def has_rows(self, name: str) -> bool:
        """Tell whether `trainable_token_indices` names the module of a tensor."""
        module, _, part = name.rpartition(".")
        return part == "weight" and self.rowed.of(module) is not None


def read_whole(
    weights: Path, header: Header, names: Sequence[str], raw: Mapping[str, Any], adapted: Collection[str]
) -> tuple[WholeTensors, list[Finding]]:
    """Read which tensors of a PEFT adapter replace the base's, and what is wrong with them."""
    remarks: list[Finding] = []
    saved = raw.get("modules_to_save")
    saved = [saved] if isinstance(saved, str) else saved or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        remarks.append(refused(f"modules_to_save in {CONFIG} is no list of names"))
        saved = []
    if len(saved) > _MOST or any(len(name) > _LONGEST for name in saved):
        long = f"modules_to_save in {CONFIG} has more names than {_MOST:,}, or longer ones than {_LONGEST}"
        remarks.append(refused(long))
        saved = []
    tokens = raw.get("trainable_token_indices")
    rowed = Endings(tokens if isinstance(tokens, Mapping) else ())
    whole = WholeTensors(saved=Endings(saved), rowed=rowed, keeps_tied=raw.get("ensure_weight_tying") is True)
    lists = list(tokens.values()) if isinstance(tokens, Mapping) else [tokens]
    if not all(not each or (isinstance(each, list) and all(type(i) is int for i in each)) for each in lists):
        remarks.append(
            refused(f"trainable_token_indices in {CONFIG} is no list of tokens, and no lists by module")
        )
    called: dict[str, list[str]] = {}
    for name in names:
        if header.tensors[name].dtype not in FORMATS or not header.tensors[name].size:
            message = f"{name} is {header.tensors[name].dtype} {header.tensors[name].shape}, not numbers of a weight"
            remarks.append(refused(message))
        else:
            called.setdefault(own_name(name), []).append(name)
    tensors, found, rows, strange = {}, {}, {}, {}
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
            indices = _indices(tokens, rowed, module)
            problem = _misfit(indices, header.tensors[chosen], module)
            if problem is None and indices is not None:
                rows[f"{module}.weight"] = TrainedRows(indices, header.tensors[chosen], chosen)
            elif problem is not None:
                remarks.append(refused(problem))
        else:
            tensors[own], found[own] = header.tensors[chosen], chosen
            if (unknown := _unwrapped(chosen, module, whole, adapted, in_rows)) is not None:
                strange[own] = unknown
    made = WholeTensors(tensors, found, rows, strange, whole.saved, whole.rowed, whole.keeps_tied)
    return made, remarks or list(_absent(made, raw))


def refused(message: str, hint: str = "save it again with save_pretrained of PEFT") -> Finding:
    """Return the remark that whole tensors cannot be used."""
    return Finding("peft_full_modules", "error", PEFT_WEIGHTS, message, hint)


def _unwrapped(
    name: str, module: str, whole: WholeTensors, adapted: Collection[str], in_rows: Collection[str]
) -> str | None:
    """Return why PEFT would not load a whole tensor: its module has no wrapper of that name; None if it would."""
    if name.endswith(f".{ROWS}"):
        return None
    saved = whole.is_saved(f"{module}.weight")
    put_on = ".token_adapter.base_layer." in name
    if module in in_rows and not (saved or put_on or _UNTRAINED in name):
        why = "is beside trained rows of the same module, and PEFT loads these alone"
    elif ".token_adapter." in name and (module not in in_rows or not put_on):
        why = "is named as the base of trained rows, but that module has none"
    elif ".base_layer." in name and module not in adapted and module not in in_rows:
        why = "is named as the base of factors, but that module has none"
    elif ".modules_to_save." in name and not saved:
        why = "is named as a module of modules_to_save, which does not name it"
    elif _UNTRAINED in name and module not in in_rows:
        why = "is the module before it was trained, and as it was trained it is not there"
    else:
        return None
    return f"{name} {why}"


def _chosen(weights: Path, header: Header, names: Sequence[str]) -> str | None:
    """Return which of several names of one tensor has its numbers; None where they differ."""
    trained = sorted((name for name in names if _UNTRAINED not in name), key=lambda name: (len(name), name))
    if not trained:
        return names[0] if len(names) == 1 else None
    first, *others = trained
    alike = (same_numbers(weights, header.tensors[first], header.tensors[other]) for other in others)
    return first if all(alike) else None


def _indices(said: Any, rowed: Endings, module: str) -> tuple[int, ...] | None:
    """Return which rows the configuration says were trained of a module: a list is for the embedding, and a tied head."""
    if isinstance(said, Mapping):
        said = said.get(rowed.of(module))
    elif not _EMBEDDING.fullmatch(module) and module.rpartition(".")[2] != "lm_head":
        return None
    if isinstance(said, list) and all(type(index) is int for index in said):
        return tuple(said)
    return None


def _misfit(indices: tuple[int, ...] | None, tensor: Tensor, module: str) -> str | None:
    if indices is None:
        return f"trainable_token_indices in {CONFIG} does not say which rows of {module} were trained"
    if len(tensor.shape) != 2 or tensor.shape[0] != len(indices):
        return f"{module} has rows of the shape {tensor.shape} for {len(indices)} trained tokens"
    if len(set(indices)) != len(indices):
        twice = Counter(indices).most_common(1)[0][0]
        return f"trainable_token_indices names the token {twice} of {module} more than once"
    if min(indices, default=0) < 0:
        return f"trainable_token_indices names the token {min(indices)} of {module}"
    return None


def _absent(whole: WholeTensors, raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a remark on what the configuration says was trained whole and is not in the file."""
    meant: set[str] = set()
    for name in whole.tensors:
        meant |= whole.saved.within(name.rpartition(".")[0])
    lost = [saved for saved in whole.saved if saved not in meant]
    if lost:
        yield refused(f"modules_to_save names {lost[0]}, which {PEFT_WEIGHTS} does not hold")
    said = raw.get("trainable_token_indices")
    # A list is of the embedding, whatever that is called; what is tied to it has no rows of its own in the file.
    wanted = said.values() if isinstance(said, Mapping) else [said] if said else []
    held = {frozenset(rows.indices) for rows in whole.rows.values()}
    if any(isinstance(rows, list) and frozenset(rows) not in held for rows in wanted):
        yield refused(f"trainable_token_indices names tokens of which {PEFT_WEIGHTS} holds no rows")


COPY, QUANTISED_COPY, OTHER, UNKNOWN = "copy", "quantised copy", "other", "unknown"
"""What a whole tensor is to the base: its numbers; what its were quantised from; other numbers; none that it has."""

_BLOCK = 1 << 22
"""Numbers that are compared at a time."""

_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "transformer.wte.weight",
)


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor, and the file that it lies in."""

    file: Path
    tensor: Tensor


def likeness(
    files: Mapping[str, Path], config: Mapping[str, Any], weights: Path, names: Sequence[str]
) -> dict[str, str]:
    """Tell of tensors in an adapter's file whether they are the base's."""
    try:
        theirs = read_header(weights).tensors
        base = {
            name: _Place(files[file], tensor)
            for file in weight_names(files)
            for name, tensor in read_header(files[file], limit=BASE_HEADER_LIMIT).tensors.items()
        }
    except FuseryError:
        return dict.fromkeys(names, UNKNOWN)
    found = {}
    for name in names:
        try:
            found[name] = _likeness(_Place(weights, theirs[name]), own_name(name), base, config)
        except (OSError, FormatError):
            found[name] = UNKNOWN
    return found


def _likeness(copy: _Place, name: str, base: Mapping[str, _Place], config: Mapping[str, Any]) -> str:
    name = next((each for each in every_name(name) if each in base), name)
    if name in ("lm_head.weight", f"{HEAD}.weight") and name not in base:  # tied: the head is the embedding
        name = next((each for each in _EMBEDDINGS if each in base), name)
    own = base.get(name)
    if own is None or copy.tensor.dtype not in FORMATS or not copy.tensor.shape:
        return UNKNOWN
    if (scales := base.get(f"{name.removesuffix('.weight')}.scales")) is not None:
        return _quantised(copy, own, scales, base.get(f"{name.removesuffix('.weight')}.biases"), name, config)
    if own.tensor.dtype not in FORMATS or own.tensor.shape != copy.tensor.shape:
        return UNKNOWN
    pairs = zip(_blocks(copy), _blocks(own), strict=True)
    return COPY if all(np.array_equal(one, other) for one, other in pairs) else OTHER


def _quantised(
    copy: _Place, words: _Place, scales: _Place, biases: _Place | None, name: str, config: Mapping[str, Any]
) -> str:
    """Quantise a copy as the base's weight is, and compare what comes out."""
    said, shape = config.get("quantization"), copy.tensor.shape
    module, dtype = name.removesuffix(".weight"), scales.tensor.dtype
    grid = affine_grid(said, module, dtype) if isinstance(said, Mapping) else None
    if grid is None or biases is None or len(shape) != 2 or shape[1] % grid.group_size:
        return UNKNOWN
    size, form = grid.group_size, grid.form
    if (shape[0], shape[1] // size) != scales.tensor.shape:
        return UNKNOWN
    for first, values in zip(range(0, shape[0], _rows(copy.tensor)), _blocks(copy), strict=True):
        if not np.array_equal(decode(encode(values, form), form), values):
            return UNKNOWN  # the base was quantised from other numbers than these, which have more bits
        packed = pack_rows(values.reshape(-1, size), grid)
        count = len(values)
        for place, made in ((words, packed.words), (scales, packed.scales), (biases, packed.biases)):
            if _bytes(place, first, count) != np.ascontiguousarray(made).tobytes():
                return OTHER
    return QUANTISED_COPY


def _rows(tensor: Tensor) -> int:
    """Return how many rows are compared at a time."""
    return max(1, _BLOCK * tensor.shape[0] // max(1, int(np.prod(tensor.shape))))


def _blocks(place: _Place) -> Iterator[Array]:
    """Yield a tensor's numbers as float32, some rows at a time."""
    form, shape = FORMATS[place.tensor.dtype], place.tensor.shape
    count = _rows(place.tensor)
    for first in range(0, shape[0], count):
        rows = min(count, shape[0] - first)
        data = np.frombuffer(_bytes(place, first, rows), form.stored)
        yield decode(data, form).reshape(rows, *shape[1:])


def _bytes(place: _Place, first: int, rows: int) -> bytes:
    """Return some rows of a tensor as they are stored."""
    width = place.tensor.size // place.tensor.shape[0]
    with place.file.open("rb", buffering=0) as file:
        file.seek(place.tensor.begin + first * width)
        data = file.read(rows * width)
    if len(data) < rows * width:
        raise FormatError("the file ends before the tensor does")
    return data
