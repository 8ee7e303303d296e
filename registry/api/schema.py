"""JSON Schemas of records: what `--json` prints, for programs that read it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from inspect import getdoc
from os import PathLike
from types import UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # pydantic refuses that of `typing` before Python 3.12

from ..record import names_of, optional_names, parts_of

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", re.MULTILINE)


def schema_of(kind: Any, references: str = "#/$defs/{model}") -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what a record, or an array of records, is printed as."""
    return TypeAdapter(_shape(kind)).json_schema(schema_generator=_Untitled, ref_template=references)


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # it would say the key once more


def _shape(kind: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and hasattr(kind, "to_dict") and is_dataclass(kind):
        return _object(kind)
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return str
    if hasattr(kind, "__supertype__"):
        return _shape(kind.__supertype__)
    if origin in (Union, UnionType):
        return Union[tuple(_shape(arg) for arg in args)]  # noqa: UP007 -- made from a tuple
    if origin is Counter:
        return dict[str, int]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[str, _shape(args[1])]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Collection):
        return list[_shape(args[0])]  # type: ignore[misc]
    return kind


@cache
def _object(kind: type) -> Any:
    optional = optional_names(kind)
    keys = {}
    for name, (of, description) in _attributes(kind):
        shape = _shape(of)
        if description:
            shape = Annotated[shape, Field(description=description)]
        keys[name.rstrip("_")] = NotRequired[shape] if name in optional else shape
    made = TypedDict(kind.__name__, keys)  # type: ignore[misc]
    summary = (getdoc(kind) or "").partition("\n\n")[0]
    made.__doc__ = " ".join(summary.split())
    made.__module__ = kind.__module__
    return with_config(ConfigDict(json_schema_extra={"description": made.__doc__}))(made)


def _attributes(kind: type) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yield what the JSON of a kind has: each attribute, its type, and its description there or in the docstring."""
    hints = get_type_hints(kind)
    _, _, section = (getdoc(kind) or "").partition("Attributes:\n")
    descriptions = {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(section)}
    descriptions |= {name: f"{part.about.text}." for name, part in parts_of(kind).items() if part.about.text}
    for name in names_of(kind):
        if name in hints:
            yield name, (hints[name], descriptions.get(name, ""))
        else:
            getter = getattr(kind, name).fget
            yield name, (get_type_hints(getter)["return"], (getdoc(getter) or "").partition("\n")[0])
