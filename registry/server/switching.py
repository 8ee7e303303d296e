"""Adapters in memory, and putting one of them on the base.

An adapter is loaded by mlx-lm's own `load_adapters`, so that each layer computes what it computes under `mlx_lm.load`.
What that call changed in the model is then taken out again and kept: a list of places in the model, each with the base's
layer and the adapter's, which holds the base's within it.  Putting an adapter on means to set these places, a
few hundred assignments; nothing is copied, nothing is read, and the base is in memory once.  A computation that has been
built keeps the layers it was built with, so that a switch is safe while mlx is still at work.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import AdapterError, sentence

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"

_REFUSALS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError)
"""What mlx and mlx-lm raise at a folder that is no adapter for this model."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer hangs in the model: `container[key]`, with what belongs there."""

    container: Any
    key: Any
    plain: Any
    adapted: Any


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """An adapter in memory.

    Attributes:
        name: its full name.
        digest: it is registered under.
        places: the layers it changes.
        nbytes: of its tensors.
    """

    name: str
    digest: str | None
    places: tuple[Place, ...] = field(repr=False)
    nbytes: int

    @property
    def modules(self) -> int:
        """How many layers of the base it changes."""
        return len(self.places)


class Switchboard:
    """The base, and the adapter that is on it; to be used by one thread.

    Attributes:
        model: mlx-lm's.
        switches: how often another adapter was put on.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.switches = 0
        self._current: Resident | None = None

    def use(self, resident: Resident | None) -> None:
        """Put an adapter on the base; None for the base alone."""
        if resident is self._current:
            return
        if self._current is not None:
            for place in self._current.places:
                place.container[place.key] = place.plain
        if resident is not None:
            for place in resident.places:
                place.container[place.key] = place.adapted
        self._current = resident
        self.switches += 1

    def load(self, name: str, folder: Path, digest: str | None = None) -> Resident:
        """Read an adapter; the base is left as it was.

        Args:
            name: its full name.
            folder: in mlx-lm's form.
            digest: it is registered under.

        Raises:
            AdapterError: it cannot be read, is no LoRA or DoRA, or does not fit the base.
        """
        import mlx.core as mx
        from mlx.utils import tree_flatten
        from mlx_lm.tuner.utils import load_adapters

        _require_adapter(name, folder)
        if _keeps_layers(self.model):
            raise AdapterError(f"the adapter {name} cannot be put on a base of {type(self.model).__module__}")
        self.use(None)
        before = list(_slots("", self.model))
        try:
            load_adapters(self.model, str(folder))
            tensors: Any = mx.load(str(folder / WEIGHTS))
            given = {tensor.rpartition(".")[0] for tensor in tensors}
        except _REFUSALS as error:
            raise AdapterError(f"the adapter {name} does not fit the base: {sentence(error)}") from error
        finally:
            changed = [
                (path, Place(container, key, plain, container[key]))
                for path, container, key, plain in before
                if container[key] is not plain
            ]
            for _, place in changed:
                place.container[place.key] = place.plain
        # mlx-lm also wraps layers for which the file has nothing: without tensors, they are the base's own.
        places = tuple(place for path, place in changed if path in given)
        if not places:
            raise AdapterError(f"the adapter {name} changes no layer of the base")
        values = [
            value
            for place in places
            for key, value in tree_flatten(place.adapted.parameters())
            if key in ("lora_a", "lora_b", "m")
        ]
        for place in places:
            place.adapted.eval()  # no dropout
        try:
            mx.eval(values)
        except _REFUSALS as error:
            raise AdapterError(f"the adapter {name} cannot be read: {sentence(error)}") from error
        return Resident(name, digest, places, sum(int(value.nbytes) for value in values))


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
