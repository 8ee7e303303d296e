"""Adapters in memory, and putting one of them on the base.

An adapter is loaded by mlx-lm's own `load_adapters`, so that each layer computes what it computes under `mlx_lm.load`.
What that call changed in the model is then taken out again.  LoRA goes into layers that have the adapters of all rows of a batch
beside them (`stacked`), and stays there.  Whatever those have no form for is kept as a list of places in the model, each with the
base's layer and the adapter's, which holds the base's within it.  Putting such an adapter on means to set these places, a
few hundred assignments; nothing is copied, nothing is read, and the base is in memory once.  A computation that has been
built keeps the layers it was built with, so that a switch is safe while mlx is still at work.
"""

from __future__ import annotations

import inspect
import json
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
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

_REFUSALS = OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, AssertionError
"""What mlx and mlx-lm raise at a folder that is no adapter for this model."""


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where a layer hangs in the model: `container[key]`, with what belongs there."""

    container: Any
    key: Any
    plain: Any
    adapted: Any


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Resident:
    """An adapter in memory, as long as something refers to this."""

    name: str
    digest: str | None  # it is registered under
    number: int  # that rows name it by
    modules: int  # how many layers of the base it changes
    # these layers, of one that is put on the base as a whole; none of one that has rows beside others
    places: tuple[LayerPlace, ...] = field(repr=False)
    nbytes: int

    @property
    def by_row(self) -> bool:
        """It answers rows of a batch beside other adapters."""
        return not self.places


class Switchboard:
    """The base, the adapters that rows of a batch name, and the one that is on it as a whole; to be used by one thread."""

    def __init__(self, model: Any, *, wake: Callable[[], object] | None = None) -> None:
        self.model, self.rows = model, BatchRows()
        self.switches = 0
        self._current: Resident | None = None
        self._numbers = count(1)
        self._stacked: dict[str, LayerPlace] = {}
        self._gone: deque[int] = deque()
        self._wake = wake

    def use(self, resident: Resident | None) -> None:
        """Put an adapter on the base as a whole; None for the base with what rows name."""
        if resident is not None and resident.by_row:
            resident = None
        if resident is self._current:
            return
        if self._current is not None:
            standing = {
                (id(stacked_place.container), stacked_place.key): stacked_place.adapted
                for stacked_place in self._stacked.values()
            }
            for place in self._current.places:
                place.container[place.key] = standing.get((id(place.container), place.key), place.plain)
        if resident is not None:
            for place in resident.places:
                place.container[place.key] = place.adapted
        self._current = resident
        self.switches += 1

    def sweep(self) -> None:
        """Give back what adapters had that nobody refers to any more."""
        self.use(None)
        if self._gone:
            while self._gone:
                self._drop(self._gone[0])
                self._gone.popleft()
            give_back()

    def load(self, name: str, folder: Path, digest: str | None = None, *, by_row: bool = False) -> Resident:
        """Read an adapter; the base is left as it was."""
        import mlx.core as mx
        from mlx.utils import tree_flatten

        _require_adapter(name, folder)
        if _keeps_layers(self.model):
            raise AdapterError(f"the adapter {name} cannot be put on a base of {type(self.model).__module__}")
        self.sweep()
        places = self._read(name, folder)
        values = [
            value
            for place in places.values()
            for key, value in tree_flatten(place.adapted.parameters())
            if key in ("lora_a", "lora_b", "m")
        ]
        for place in places.values():
            place.adapted.eval()  # no dropout
        try:
            mx.eval(values)
        except _REFUSALS as error:
            raise AdapterError(f"the adapter {name} cannot be read: {sentence(error)}") from error
        number = next(self._numbers)
        try:
            stacked = by_row and self._stack(number, places)
        except _REFUSALS as error:
            self._drop(number)
            raise AdapterError(f"the adapter {name} does not fit the base: {sentence(error)}") from error

        def gone() -> None:
            self._gone.append(number)
            if self._wake is not None:
                self._wake()

        resident = Resident(
            name,
            digest,
            number,
            len(places),
            () if stacked else tuple(places.values()),
            sum(int(value.nbytes) for value in values),
        )
        if stacked:
            weakref.finalize(resident, gone).atexit = False
        del places, values  # of what answers by row, they lie in the stacks
        give_back()
        return resident

    def _read(self, name: str, folder: Path) -> dict[str, LayerPlace]:
        """Return the places that an adapter changes, by their paths."""
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
        # mlx-lm also wraps layers for which the file has nothing: without tensors, they are the base's own.
        places = {path: place for path, place in changed.items() if path in given}
        if not places:
            raise AdapterError(f"the adapter {name} changes no layer of the base")
        return places

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """Let the model have the base's own layers only."""
        for place in self._stacked.values():
            place.container[place.key] = place.plain
        try:
            yield
        finally:
            for place in self._stacked.values():
                place.container[place.key] = place.adapted

    def _stack(self, number: int, places: dict[str, LayerPlace]) -> bool:
        """Let rows name an adapter; return whether they can."""
        from .stacked import KINDS, SortedExperts, StackedExperts

        if not all(type(place.adapted) in KINDS and _wraps(place) for place in places.values()):
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
        """Tell whether every layer sees rows, by passes that are built and never computed, short and long."""
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


def _wraps(place: LayerPlace) -> bool:
    """Tell whether an adapter's layer holds the base's own, and not another adapter's."""
    within = getattr(place.adapted, "linear", None) or getattr(place.adapted, "embedding", None)
    return within is place.plain


def _keeps_layers(model: Any) -> bool:
    """Tell whether a model's class compiles a method with its layers in it, which would go on with those of its first call."""
    module = sys.modules[type(model).__module__]
    try:
        return "mx.compile(self." in inspect.getsource(module)
    except OSError:
        return False


def _require_adapter(name: str, folder: Path) -> None:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"the adapter {name} has no readable {CONFIG}: {sentence(error)}") from error
    kind = config.get("fine_tune_type", "lora") if isinstance(config, dict) else None
    if kind not in ("lora", "dora"):
        # mlx-lm would write a full fine-tune over the base that the others need.
        raise AdapterError(f"the adapter {name} is neither LoRA nor DoRA but {kind!r}")
    if any(config.get(entry) for entry in _MERGE_AWARE):
        raise AdapterError(f"the adapter {name} was trained to be fused, and cannot be used unfused")
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"the adapter {name} has no {WEIGHTS}")


def _slots(path: str, value: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield every place in a model with a layer in it: its path as mlx names it, container, key and layer."""
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
    """Give back the memory of arrays that are gone, which mlx keeps for others."""
    import mlx.core as mx

    # mlx-lm's layers draw numbers that nobody looks at; the state of the generator would keep the way to all of them.
    mx.eval(mx.random.state)
    mx.clear_cache()
