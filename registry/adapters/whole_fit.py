"""What whole tensors and trained rows of a PEFT adapter become on a base, as by `merge_and_unload`, a tied head too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FuseryError
from fusery.storage.safetensors import Tensor

from ..engine import architectures
from ..engine.arithmetic import FORMATS
from ..engine.base import Base, read_sources
from ..models.architecture import architecture_of
from ..models.libraries import HEAD as SEEING_HEAD
from . import some
from .peft_form import names_are_shared
from .tensors import same_numbers
from .whole import QUANTISED_COPY, TrainedRows, WholeTensors, likenesses

EMBEDDINGS = frozenset({"embed_tokens", "wte", "tok_embeddings", "word_embeddings", "embeddings"})
HEADS = frozenset({"lm_head", "output", "embed_out"})
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class FittedWhole:
    """What replaces numbers of one base, by the names of its tensors."""

    tensors: Mapping[str, Tensor]
    rows: Mapping[str, TrainedRows]
    copies: tuple[str, ...] = ()
    quantised: bool = False
    untied: str | None = None  # the embedding that was the head as well, and is not any more
    vocabulary: int | None = None
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tensors or self.rows)


def fit_whole(
    files: Mapping[str, Path], config: Mapping[str, Any], weights: Path, whole: WholeTensors
) -> FittedWhole:
    """Hold whole tensors against a base."""
    try:
        return _Fitting(files, config, weights, whole).fitted()
    except (FuseryError, OSError):
        return FittedWhole({}, {}, problems=("the base cannot be read, to hold whole tensors against it",))


def _last(name: str) -> str:
    return name.rsplit(".", 2)[-2]


class _Fitting:
    """One adapter's whole tensors on one base."""

    def __init__(
        self, files: Mapping[str, Path], config: Mapping[str, Any], weights: Path, whole: WholeTensors
    ) -> None:
        sources, _ = read_sources(files)
        held = {name: source.tensor for name, source in sources.items()}
        alike = likenesses(Base(files, config, sources, all_linear=False), weights, whole.names.values())
        self._architecture = architecture = architecture_of(config, held)
        self._weights, self._whole = weights, whole
        self._alike = {name: alike[given] for name, given in whole.names.items() if given in alike}
        self._tensors, self._rows = dict(whole.tensors), dict(whole.rows)
        self._untied: str | None = None
        tensor_names = architectures.architecture_of(architecture.model_type)
        self._comes_apart = tensor_names is not None and tensor_names.tied is not None
        for name in tensor_names.dropped(held, architecture.config) if tensor_names else ():
            del held[name]
        # Logical shapes of what numbers can replace; of quantised tensors, too.
        self._shapes = {name: tensor.shape for name, tensor in held.items() if tensor.dtype in FORMATS}
        for module, weight in architecture.weights.items():
            if weight.bits is not None and f"{module}.weight" in held:
                self._shapes[f"{module}.weight"] = weight.shape
        shapes = self._shapes
        matrices = [name for name in shapes if len(shapes[name]) == 2 and name.endswith(".weight")]
        self._embedding = next((name for name in matrices if _last(name) in EMBEDDINGS), None)
        ends = (name for name in matrices if name.count(".") == 1 or name == f"{SEEING_HEAD}.weight")
        # None where the head is the embedding.
        self._head = next((name for name in ends if _last(name) in HEADS), None)

    def fitted(self) -> FittedWhole:
        problems = [why for name, why in self._whole.strange.items() if name not in self._alike]
        problems += self._lost()
        problems += self._tied() if self._head is None and self._embedding else []
        copies = tuple(self._alike)
        for name in copies:
            self._tensors.pop(name, None)
        if not self._tensors:
            self._untied = None
        problems += [*self._unknown(), *self._misfits()]
        vocabulary = None
        if not problems:
            head = HEAD if self._untied else self._head
            ours, theirs = self._rows_of(self._embedding), self._rows_of(head)
            resized = head and self._embedding and {self._embedding, head} & self._tensors.keys()
            if resized and ours != theirs:
                parts = f"{self._embedding} has {ours} rows and {head} {theirs}"
                problems.append(f"{parts}: the vocabulary was resized at one end only")
            before = self._shape(self._embedding)[:1]
            vocabulary = ours if before and ours != before[0] else None
        quantised = QUANTISED_COPY in self._alike.values()
        ends = self._untied, vocabulary, tuple(problems)
        return FittedWhole(self._tensors, self._rows, copies, quantised, *ends)

    def _lost(self) -> Iterator[str]:
        """Refuse what was trained whole of some of the modules that it was trained of."""
        if not names_are_shared(self._architecture):
            return
        names = [name for name in self._shapes if name.endswith((".weight", ".bias"))]
        saved = [name for name in names if self._whole.is_saved(name) and name not in self._tensors]
        # Factors within a saved module go into its weight, which the file has as well.
        if saved and self._tensors.keys() - self._alike.keys():
            yield f"modules_to_save means {some(saved)} too, which the adapter does not hold"
        weights = [name for name in names if name.endswith(".weight") and name not in self._rows]
        rows = [name for name in weights if self._whole.rowed.of(name.removesuffix(".weight")) is not None]
        if rows and self._rows:
            yield f"trainable_token_indices means {some(rows)} too, of which the adapter holds no rows"
        if HEAD in self._rows and self._head is not None and not self._whole.rowed:
            yield f"a list of trainable_token_indices is of the embedding, and there are rows of {HEAD}"

    def _tied(self) -> Iterator[str]:
        """Decide what becomes of the two ends of a tied matrix."""
        end, head, saved = self._embedding, self._tensors.get(HEAD), self._whole.is_saved
        assert end is not None
        embedding = self._tensors.get(end)
        if HEAD in self._rows:
            ours, theirs = self._rows.pop(HEAD), self._rows.get(end)
            if theirs is None or ours.indices != theirs.indices or not self._same(ours.tensor, theirs.tensor):
                yield f"the trained rows of {HEAD} are not those of {end}, which is the same matrix of the base"
        if {end, HEAD} & self._tensors.keys() <= self._alike.keys():
            return
        if head is not None and embedding is not None and self._same(head, embedding):
            del self._tensors[HEAD]  # both ends, saved twice
        elif self._whole.keeps_tied or not ((head and saved(HEAD)) or (embedding and saved(end))):
            if head is not None and embedding is not None:
                yield f"{HEAD} and {end}, which are one matrix of the base, have different numbers"
            elif head is not None:
                self._tensors[end] = self._tensors.pop(HEAD)
        else:
            self._untied = end
            if self._rows:
                yield "tokens were trained beside a whole embedding or head of a base where the two are one matrix"
            if not self._comes_apart:
                kind = self._architecture.model_type
                yield f"PEFT takes the head from the embedding, and mlx-lm's {kind[:40]} has no head of its own"

    def _same(self, one: Tensor, other: Tensor) -> bool:
        return same_numbers(self._weights, one, other)

    def _shape(self, name: str | None) -> tuple[int, ...]:
        if name == HEAD and self._head is None:
            name = self._embedding
        return self._shapes.get(name or "", ())

    def _rows_of(self, name: str | None) -> int:
        shape = self._tensors[name].shape if name in self._tensors else self._shape(name)
        return shape[0] if shape else 0

    def _unknown(self) -> Iterator[str]:
        names = {*self._tensors, *self._rows}
        if names and not names_are_shared(self._architecture):
            kind = self._architecture.model_type[:40]
            yield f"mlx-lm gives the modules of {kind} other names than transformers does: {some(names)}"
            return
        unknown = [name for name in names if not self._shape(name)]
        if unknown:
            yield f"the base has no weight of such a name: {some(unknown)}"

    def _misfits(self) -> Iterator[str]:
        ends = {self._embedding, self._head, HEAD if self._untied else None}
        for name, tensor in self._tensors.items():
            theirs = self._shape(name)
            resized = name in ends and len(tensor.shape) == 2 and tensor.shape[1:] == theirs[1:]
            if theirs and tensor.shape != theirs and not resized:
                yield f"{name} is {tensor.shape}, and the base's {theirs}"
        for name, rows in self._rows.items():
            theirs = self._shape(name)
            if theirs and rows.tensor.shape[1:] != theirs[1:]:
                yield f"the trained rows of {name} are {rows.tensor.shape}, and the base's {theirs}"
            elif theirs and (highest := max(rows.indices)) >= self._rows_of(name):
                yield f"token {highest} was trained, and {name} has {self._rows_of(name)} rows"
