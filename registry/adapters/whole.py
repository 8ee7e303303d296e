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

from fusery.storage.safetensors import Header, Tensor

from ..engine.arithmetic import FORMATS
from .endings import Endings
from .files import PEFT_WEIGHTS
from .peft_config import CONFIG
from .peft_folder import ROWS, own_name
from .remark import Remark
from .tensors import same_numbers

_UNTRAINED = ".original_module."
_MOST, _LONGEST = 10_000, 512
_EMBEDDING = re.compile(r"(.*\.)?(\w*embed\w*|wte)")
"""What `trainable_token_indices` means by a list: the input embedding, and its tied head."""


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Rows of trained tokens.

    Attributes:
        indices: the number of each row in the base's tensor.
        tensor: the rows, (tokens, columns).
        name: of the tensor in PEFT's file.
    """

    indices: tuple[int, ...]
    tensor: Tensor
    name: str


@dataclass(frozen=True, slots=True)
class WholeTensors:
    """What replaces numbers of the base, by the names of the base's tensors.

    Attributes:
        tensors: whole ones.
        names: theirs in PEFT's file.
        rows: of trained tokens.
        strange: why PEFT would not load a tensor, which matters if it is not the base's own.
        saved: what `modules_to_save` names.
        rowed: the modules that `trainable_token_indices` names; none where it is a list.
        keeps_tied: `ensure_weight_tying` is set.
    """

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
) -> tuple[WholeTensors, list[Remark]]:
    """Read which tensors of a PEFT adapter replace the base's, and what is wrong with them.

    Args:
        weights: `adapter_model.safetensors`.
        header: its header.
        names: of whole tensors and rows, from `sort_tensors`.
        raw: the configuration as plain JSON.
        adapted: paths of the modules that have factors.

    Returns:
        what can be used, and remarks on what cannot.
    """
    remarks: list[Remark] = []
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
    if not _are_tokens(tokens):
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


def refused(message: str, hint: str = "save it again with save_pretrained of PEFT") -> Remark:
    """Return the remark that whole tensors cannot be used."""
    return Remark("peft_full_modules", "error", PEFT_WEIGHTS, message, hint)


def _are_tokens(said: Any) -> bool:
    """Tell whether `trainable_token_indices` is what PEFT takes: nothing, a list of tokens, or such lists by module."""
    lists = list(said.values()) if isinstance(said, Mapping) else [said]
    return all(
        not each or (isinstance(each, list) and all(type(index) is int for index in each)) for each in lists
    )


def _unwrapped(
    name: str, module: str, whole: WholeTensors, adapted: Collection[str], in_rows: Collection[str]
) -> str | None:
    """Return why PEFT would not load a whole tensor: its module has no wrapper of that name; None if it would."""
    if name.endswith(f".{ROWS}"):
        return None
    saved = whole.is_saved(f"{module}.weight")
    if (
        module in in_rows
        and not saved
        and ".token_adapter.base_layer." not in name
        and _UNTRAINED not in name
    ):
        return f"{name} is beside trained rows of the same module, and PEFT loads these alone"
    if ".token_adapter." in name and (module not in in_rows or ".token_adapter.base_layer." not in name):
        return f"{name} is named as what trained rows are put on, and there are none of that module"
    if ".base_layer." in name and module not in adapted and module not in in_rows:
        return f"{name} is named as the base of factors, and there are none of that module"
    if ".modules_to_save." in name and not saved:
        return f"{name} is named as a module of modules_to_save, which does not name it"
    if _UNTRAINED in name and module not in in_rows:
        return f"{name} is the module before it was trained, and as it was trained it is not there"
    return None


def _chosen(weights: Path, header: Header, names: Sequence[str]) -> str | None:
    """Return which of several names of one tensor has its numbers; None where they differ.

    After the vocabulary was resized, PEFT saves a module of `modules_to_save` up to three times: as it was before it was
    trained (`original_module`), and twice as it is now.
    """
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


def _absent(whole: WholeTensors, raw: Mapping[str, Any]) -> Iterator[Remark]:
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
