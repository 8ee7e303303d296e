"""Watching what mlx-lm's class of a model does to the arrays of a base, without evaluating one.

`mlx.core.stack` and `concatenate` are watched, so that experts that are only put one behind the other can be written
one by one: a layer's experts (gigabytes) need never be held together.  The in-place operators are watched because
`x *= 2` changes an array and leaves the object the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

_IN_PLACE = (
    *("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__"),
    *("__imatmul__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__setitem__"),
)


@dataclass(slots=True)
class Watch:
    """What was seen while a model sanitised its tensors.

    Attributes:
        loaded: the arrays as they came from the files, by name on disk.
        joined: arrays put together along the first axis, by identity: the array itself, and its parts.
        changed: identities of arrays that were changed in place.
    """

    loaded: dict[str, Any] = field(default_factory=dict)
    joined: dict[int, tuple[Any, Sequence[Any]]] = field(default_factory=dict)
    changed: dict[int, Any] = field(default_factory=dict)

    def forget(self) -> None:
        """Let go of every array."""
        self.loaded, self.joined, self.changed = {}, {}, {}

    @contextlib.contextmanager
    def installed(self, mx: ModuleType) -> Iterator[None]:
        """Watch for as long as the context lasts."""
        owners: list[tuple[Any, str, Any]] = [
            (mx, name, partial(self._join, getattr(mx, name))) for name in ("stack", "concatenate")
        ]
        for name in _IN_PLACE:
            if original := getattr(mx.array, name, None):
                owners.append((mx.array, name, self._changing(original)))
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in owners]
        try:
            for owner, name, stand_in in owners:
                setattr(owner, name, stand_in)
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)

    def _join(self, original: Callable[..., Any], arrays: Any, axis: Any = 0, **options: Any) -> Any:
        parts = list(arrays)
        result = original(parts, axis, **options)
        if axis == 0:
            self.joined[id(result)] = (result, parts)
        return result

    def _changing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(array: Any, *arguments: Any) -> Any:
            self.changed[id(array)] = array
            return original(array, *arguments)

        return change
