"""What all typed records have in common: made once, read by attributes, and written as JSON by one rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, fields
from datetime import date, datetime
from functools import cache
from os import PathLike, fspath
from typing import Any, ClassVar, NamedTuple

_LEFT_OUT, _EXACT = "left out", "exact"

EXACT: Mapping[str, bool] = {_EXACT: True}
"""The `metadata` of a field with a moment that the JSON has to the microsecond: the order of moves shows in it."""


def left_out(metadata: Mapping[str, bool] | None = None) -> Any:
    """Return a field that is None by default, and then has no key in the JSON: for what is there only when asked for."""
    return field(default=None, metadata={**(metadata or {}), _LEFT_OUT: True})


class Record(Mapping[str, Any]):
    """A typed, immutable record.  Subclasses are frozen dataclasses.

    Its JSON has a key for each field, in their order.  A name with a `_` at its end, for what Python keeps for itself,
    is a key without it.  A moment is ISO 8601 in UTC with seconds and offset (see also `EXACT`), a path a text, a tuple an
    array.

    A record can also be read as that mapping: `adapter["created_at"]` is what `--json` prints of `adapter.created_at`,
    and `dict(adapter)` is all of it.

    Attributes:
        REFERENCE: the field that names what the record is of, where a reference is asked for; empty if it names nothing.
        KEYS: names of the fields and properties that the JSON has, where these are not just its fields.
    """

    __slots__ = ()
    REFERENCE: ClassVar[str] = ""
    KEYS: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__hash__ = Record.__hash__  # type: ignore[method-assign]  # or `dataclass` would hash mappings

    def __hash__(self) -> int:
        if not type(self).__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(f"unhashable type: {type(self).__name__!r}")
        values = (getattr(self, each.name) for each in fields(self) if each.compare)  # type: ignore[arg-type]
        return hash((type(self).__name__, *map(_hashable, values)))

    def to_dict(self) -> dict[str, object]:
        """Return the record as `--json` prints it."""
        return {key: self[key] for key in self}

    def __getitem__(self, key: str) -> Any:
        part = _layout(type(self))[key]
        value = getattr(self, part.name)
        if value is None and part.optional:
            raise KeyError(key)
        return value.isoformat() if part.exact and value is not None else plain(value)

    def __iter__(self) -> Iterator[str]:
        for key, part in _layout(type(self)).items():
            if not part.optional or getattr(self, part.name) is not None:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        part = _layout(type(self)).get(str(key))
        return part is not None and not (part.optional and getattr(self, part.name) is None)

    def _repr_html_(self) -> str:
        """Return a table of its values, for notebooks."""
        from html import escape

        from fusery.storage.plaintext import visible

        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(visible(str(value)))}</td></tr>"
            for key, value in self.to_dict().items()
            if value is not None and value != []
        )
        return f"<table>{rows}</table>"


def _hashable(value: Any) -> Any:
    """Return a hashable value; equal values give equal results."""
    if isinstance(value, Mapping) and not isinstance(value, Record):
        return frozenset((key, _hashable(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value


def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of the attributes that the JSON of a kind of record has."""
    return getattr(kind, "KEYS", ()) or tuple(each.name for each in fields(kind))


def optional_names(kind: type) -> frozenset[str]:
    """Return those that are left out where they are None."""
    return frozenset(each.name for each in fields(kind) if _LEFT_OUT in each.metadata)


class _Part(NamedTuple):
    name: str
    optional: bool
    exact: bool


@cache
def _layout(kind: type[Record]) -> dict[str, _Part]:
    """Return what the JSON of a kind of record has: key to the attribute, and how that is written."""
    optional = optional_names(kind)
    exact = {each.name for each in fields(kind) if _EXACT in each.metadata}  # type: ignore[arg-type]
    return {name.rstrip("_"): _Part(name, name in optional, name in exact) for name in names_of(kind)}


def plain(value: Any) -> Any:
    """Return a value as JSON has it, with the records in it."""
    if value is None or isinstance(value, str | int | float):
        return value
    # Before the questions below, which are slow: a table asks for the amendments at each of its cells.
    if type(value) is tuple:
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, PathLike):
        return fspath(value)
    return [plain(each) for each in value]
