"""Encode records as JSON between client and server, and decode them into the same classes.

The JSON has all fields, and times to the microsecond; `--json` prints the same keys with times to the second.
Decoding ignores unknown keys, so that a server can add fields.  A missing field gets its default, or None if it may be None.
"""

from __future__ import annotations

import math
import sys
import types
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from fusery.storage.digest import Digest, parse_digest

from .record import Record, names_of

LongText = NewType("LongText", str)
"""A string of up to ten million characters, such as a signature over many files."""


def encode(value: Any) -> Any:
    """Return a value as JSON; a record becomes an object with its fields and the properties in `KEYS`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Record):
        return {
            name.rstrip("_"): encode(getattr(value, name))
            for name in dict.fromkeys((*(field.name for field in fields(value)), *names_of(type(value))))
        }
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "to_dict"):
        return encode(value.to_dict())
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(entry_value) for key, entry_value in value.items()}
    return [encode(element) for element in value]


def decode(kind: Any, value: Any) -> Any:
    """Return a value of a type from its JSON."""
    if kind is Digest:
        return parse_digest(decode(str, value))
    if hasattr(kind, "__supertype__"):
        return decode(kind.__supertype__, value)
    if hasattr(kind, "__value__"):
        return decode(kind.__value__, value)
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return value
    if kind is None or kind is type(None):
        return _require(value is None, None, kind, value)
    if origin is Literal:
        return _require(value in args, value, kind, value)
    if origin in (Union, types.UnionType):
        return _one_of(args, value)
    if kind in (str, bool, int):
        return _require(type(value) is kind, value, kind, value)
    if kind is float:
        _require(type(value) in (int, float) and abs(value) <= sys.float_info.max, value, kind, value)
        return float(value)
    if kind in (datetime, date):
        return kind.fromisoformat(_require(isinstance(value, str), value, kind, value))
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return Path(_require(isinstance(value, str), value, kind, value))
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, _require(isinstance(value, dict), value, kind, value))
    made = origin or kind
    if isinstance(made, type) and issubclass(made, Mapping):
        entries = _require(isinstance(value, dict), value, kind, value).items()
        if issubclass(made, Counter):
            return Counter({key: decode(int, entry_value) for key, entry_value in entries})
        of = args[-1] if args else Any
        return {key: decode(of, entry_value) for key, entry_value in entries}
    if isinstance(made, type) and issubclass(made, Collection):
        return _collection(made, args, _require(isinstance(value, list), value, kind, value))
    raise TypeError(f"cannot decode values of type {kind}")


def _require(fits: bool, accepted_value: Any, kind: Any, value: Any) -> Any:
    if not fits:
        raise ValueError(f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
    return accepted_value


def _one_of(kinds: Collection[Any], value: Any) -> Any:
    """Decode a value of a union: try records with the most fields first."""
    records = [kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)]
    if isinstance(value, dict) and len(records) > 1:
        records = [kind for kind in records if _needed(kind) <= value.keys()]
        kinds = sorted(records, key=lambda kind: len(_keys(kind)), reverse=True)
    for kind in kinds:
        try:
            return decode(kind, value)
        except (ValueError, TypeError):
            continue
    raise ValueError(f"expected one of {', '.join(map(str, kinds))}, got {type(value).__name__}")


def _collection(made: type, args: tuple[Any, ...], value: list[Any]) -> Any:
    if issubclass(made, tuple) and args and args[-1] is not Ellipsis:
        return tuple(decode(of, element) for of, element in zip(args, value, strict=True))
    elements = [decode(args[0] if args else Any, element) for element in value]
    if issubclass(made, tuple):
        return tuple(elements)
    return frozenset(elements) if issubclass(made, frozenset | set) else elements


@cache
def _keys(kind: type) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return {field.name.rstrip("_"): (field, hints[field.name]) for field in fields(kind)}


def _needed(kind: type) -> set[str]:
    return {
        key
        for key, (field, _) in _keys(kind).items()
        if field.default is MISSING and field.default_factory is MISSING
    }


def _record(kind: type, value: Mapping[str, Any]) -> Any:
    field_values, keys = dict[str, object](), _keys(kind)
    for key, (field, of) in keys.items():
        if key not in value:
            if key in _needed(kind):
                if type(None) not in get_args(of):
                    raise ValueError(f"missing field of {kind.__name__}: {key}")
                field_values[field.name] = None
        elif field.init:
            try:
                field_values[field.name] = decode(of, value[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
    return kind(**field_values)
