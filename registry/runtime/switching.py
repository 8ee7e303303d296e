"""Adapters in memory, loaded by mlx-lm's `load_adapters`, and switching the base model between them.

LoRA goes into layers with the adapters of all rows (`stacked`).  Other adapters are lists of places in the model with two layers
each, which a switch assigns; a computation keeps the layers it was built with, so a switch is safe meanwhile.
"""

from __future__ import annotations

import inspect
import json
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from .errors import AdapterError, sentence
from .stacked import BatchRows

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"

_MERGE_AWARE = ("quantization_aware", "nvfp4_merge_aware")
"""Entries of a configuration that declare a merge-aware adapter, which must be fused."""

MOST_INVOCATION = 1_000  # tokens: each prompt is searched for them
INVOCATION = "alora_invocation_tokens"
"""The entry of a configuration with the ids of an aLoRA's invocation tokens."""

_REFUSALS = OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, AssertionError
"""Errors of mlx and mlx-lm for an adapter that does not fit the model."""


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """A place in the model, `container[key]`, and its layers."""

    container: Any
    key: Any
    plain: Any
    adapted: Any


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Resident:
    """An adapter in memory, as long as something refers to this."""

    name: str
    digest: str | None
    number: int  # by which rows name it
    modules: int  # adapted layers
    places: tuple[LayerPlace, ...] = field(repr=False)  # of an adapter that the base model is switched to
    nbytes: int
    invocation: tuple[int, ...] = ()  # an aLoRA's invocation tokens; empty for any other adapter

    def active_from(self, tokens: Sequence[int]) -> int | None:
        """Return the index of the first token that the adapter is active on; None if an aLoRA is not invoked."""
        # As `calculate_alora_offsets` of peft 0.21.2: the last invocation tokens of the prompt count, and without any
        # the base alone answers.
        count = len(self.invocation)
        if not count:
            return 0
        starts = range(len(tokens) - count, -1, -1)
        return next((start for start in starts if (*tokens[start : start + count],) == self.invocation), None)

    @property
    def by_row(self) -> bool:
        """Whether rows of a batch can have it beside other adapters."""
        return not self.places


class Switchboard:
    """The base model, adapters that rows of a batch name, and the adapter it is switched to; for one thread."""

    def __init__(self, model: Any, *, wake: Callable[[], object] | None = None) -> None:
        self.model, self.rows = model, BatchRows()
        self.switches = 0
        self._current: Resident | None = None
        self._numbers = count(1)
        self._stacked: dict[str, LayerPlace] = {}
        self._gone: deque[int] = deque()
        self._wake = wake

    def use(self, resident: Resident | None) -> None:
        """Switch the base model to an adapter; None for the base model with the adapters of rows."""
        if resident is not None and resident.by_row:
            resident = None
        if resident is self._current:
            return
        if self._current is not None:
            for place in self._current.places:
                place.container[place.key] = place.plain
            self._place_stacked()
        if resident is not None:
            for place in resident.places:
                place.container[place.key] = place.adapted
        self._current = resident
        self.switches += 1

    def sweep(self) -> None:
        """Free the memory of adapters that nothing refers to."""
        self.use(None)
        if self._gone:
            while self._gone:
                self._drop(self._gone[0])
                self._gone.popleft()
            give_back()

    def load(self, name: str, folder: Path, digest: str | None = None, *, by_row: bool = False) -> Resident:
        """Read an adapter, without a change of the base model."""
        import mlx.core as mx
        from mlx.utils import tree_flatten

        invocation = _invocation(name, _required_config(name, folder))
        if _keeps_layers(self.model):
            raise AdapterError(f"the adapter {name} cannot be put on a base of {type(self.model).__module__}")
        self.sweep()
        places = self._read(name, folder)
        parameters = [
            parameter
            for place in places.values()
            for parameter in tree_flatten(place.adapted.parameters())
            if parameter[0] in ("lora_a", "lora_b", "m")
        ]
        nbytes = sum(int(value.nbytes) for _, value in parameters)
        for place in places.values():
            place.adapted.eval()  # no dropout
        number = next(self._numbers)
        try:
            mx.eval(parameters)
            stacked = (by_row or bool(invocation)) and self._stack(number, places)
        except _REFUSALS as error:
            self._drop(number)
            raise AdapterError(f"the adapter {name} does not fit the base: {sentence(error)}") from error

        if invocation and not stacked:
            raise AdapterError(f"the adapter {name} is an aLoRA, which no base of this class can serve")

        def gone() -> None:
            self._gone.append(number)
            if self._wake is not None:
                self._wake()

        switched = () if stacked else tuple(places.values())
        resident = Resident(name, digest, number, len(places), switched, nbytes, invocation)
        if stacked:
            weakref.finalize(resident, gone).atexit = False
        del places, place, parameters  # the stacks have copies
        give_back()
        return resident

    def _read(self, name: str, folder: Path) -> dict[str, LayerPlace]:
        """Return the adapted places by path."""
        import mlx.core as mx
        from mlx_lm.tuner.utils import load_adapters

        with self._bare():
            before = list(_slots("", self.model))
            try:
                load_adapters(self.model, str(folder))
                tensors: Any = mx.load(str(folder / WEIGHTS))
                given = {tensor.rpartition(".")[0] for tensor in tensors}
            except _REFUSALS as error:
                raise AdapterError(f"the adapter {name} does not fit the base: {sentence(error)}") from error
            finally:
                changed = {
                    path: LayerPlace(container, key, plain, container[key])
                    for path, container, key, plain in before
                    if container[key] is not plain
                }
                for place in changed.values():
                    place.container[place.key] = place.plain
        # mlx-lm also wraps layers without tensors in the file.
        places = {path: place for path, place in changed.items() if path in given}
        if not places:
            raise AdapterError(f"the adapter {name} changes no layer of the base")
        return places

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """Remove the adapters of rows from the model while the block runs."""
        for place in self._stacked.values():
            place.container[place.key] = place.plain
        try:
            yield
        finally:
            self._place_stacked()

    def _place_stacked(self) -> None:
        for place in self._stacked.values():
            place.container[place.key] = place.adapted

    def _stack(self, number: int, places: dict[str, LayerPlace]) -> bool:
        """Add an adapter to the layers of rows; return whether that is possible."""
        from .stacked import KINDS, SortedExperts, StackedExperts

        # Each must be around the base model's layer, not another adapter's.
        layers = [(place.adapted, place.plain) for place in places.values()]
        if not all(type(layer) in KINDS and layer.linear is plain for layer, plain in layers):
            return False
        blocks = {}
        if any(KINDS[type(place.adapted)] is StackedExperts for place in places.values()):
            blocks = {
                id(plain): LayerPlace(container, key, plain, plain)
                for _, container, key, plain in _slots("", self.model)
                if type(plain) in SortedExperts.KINDS and not isinstance(container, SortedExperts)
            }
        for path, place in places.items():
            stacked_place = self._stacked.get(path)
            if stacked_place is None:
                layer = KINDS[type(place.adapted)](place.plain, self.rows)
                stacked_place = self._stacked[path] = LayerPlace(
                    place.container, place.key, place.plain, layer
                )
                place.container[place.key] = layer
            block = blocks.pop(id(place.container), None)
            if block is not None:
                around = SortedExperts(block.plain, self.rows)
                self._stacked[f"{path} within"] = LayerPlace(block.container, block.key, block.plain, around)
                block.container[block.key] = around
            stacked_place.adapted.add(number, place.adapted)
        if self._shows_rows(number):
            return True
        self._drop(number)
        return False

    def _shows_rows(self, number: int) -> bool:
        """Return whether every layer gets rows, in short and long passes that are built and never computed."""
        import mlx.core as mx

        try:
            for numbers in ((number, None, number), (number, None, None, number, number)):
                for length in (1, 7, 67):
                    with self.rows.of(numbers):
                        self.rows.require(len(numbers), length)
                        self.model(mx.zeros((len(numbers), length), mx.int32))
        except _REFUSALS:
            return False
        return True

    def _drop(self, number: int) -> None:
        for path, place in list(self._stacked.items()):
            if hasattr(place.adapted, "drop") and not place.adapted.drop(number):
                del self._stacked[path]
                place.container[place.key] = place.plain


def _keeps_layers(model: Any) -> bool:
    """Return whether a model's class compiles a method, which would keep the layers of its first call."""
    module = sys.modules[type(model).__module__]
    try:
        return "mx.compile(self." in inspect.getsource(module)
    except OSError:
        return False


def _required_config(name: str, folder: Path) -> Mapping[str, Any]:
    """Return an adapter's configuration; raise `AdapterError` if the adapter cannot be loaded."""
    try:
        config: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"the adapter {name} has no readable {CONFIG}: {sentence(error)}") from error
    kind = config.get("fine_tune_type", "lora") if isinstance(config, dict) else None
    if kind not in ("lora", "dora"):
        # mlx-lm would overwrite the base model.
        raise AdapterError(f"the adapter {name} is neither LoRA nor DoRA but {kind!r}")
    if any(config.get(entry) for entry in _MERGE_AWARE):
        raise AdapterError(f"the adapter {name} was trained to be fused, and cannot be used unfused")
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"the adapter {name} has no {WEIGHTS}")
    assert isinstance(config, dict)
    return config


def _invocation(name: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    tokens = config.get(INVOCATION) or []
    ids = tokens if isinstance(tokens, list) and len(tokens) <= MOST_INVOCATION else [None]
    if not all(type(token) is int for token in ids):
        raise AdapterError(f"invalid {INVOCATION} of the adapter {name}")
    return tuple(tokens)


def _slots(path: str, value: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield mlx's path, container, key and layer of every layer in a model."""
    from mlx import nn

    items: Any = ()
    if isinstance(value, dict):  # a layer is one, too
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, child in list(items):
        if isinstance(child, nn.Module | dict | list):
            below = f"{path}.{key}" if path else str(key)
            if isinstance(child, nn.Module):
                yield below, value, key, child
            yield from _slots(below, child)


def give_back() -> None:
    """Free the memory that mlx caches."""
    import mlx.core as mx

    # mlx-lm's layers draw random numbers that are never used; the generator's state would refer to all of them.
    mx.eval(mx.random.state)
    mx.clear_cache()
