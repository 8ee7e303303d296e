"""The public names say what they take and give: no `Any`, and no dictionary or list of whatever."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fusery import registry
from fusery.registry import Registry
from fusery.registry.record import Record


@cache
def for_types(module: str) -> dict[str, Any]:
    """Return what a module imports for its types alone."""
    found: dict[str, Any] = {}
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for line in block.body:
                if isinstance(line, ast.ImportFrom):
                    place = "." * line.level + (line.module or "")
                    inner = importlib.import_module(place, module.rpartition(".")[0])
                    found |= {each.asname or each.name: getattr(inner, each.name) for each in line.names}
    return found


def functions(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(kind):
        function = inspect.unwrap(getattr(member, "__func__", member))
        if name == "__init__" and issubclass(kind, Record):
            continue  # its fields are looked at
        if name == "__init__" or not name.startswith("_"):
            if isinstance(member, property):
                function = member.fget
            if inspect.isfunction(function) and function.__module__.startswith("fusery"):
                yield f"{kind.__name__}.{name}", function


def classes() -> Iterator[type]:
    """Yield the public classes, and the kinds of a registry's resources."""
    yield from filter(inspect.isclass, (getattr(registry, name) for name in registry.__all__))
    annotations = ast.parse(textwrap.dedent(inspect.getsource(Registry.__init__)))
    for call in ast.walk(annotations):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id[0].isupper():
            yield getattr(sys.modules[Registry.__module__], call.func.id)


def faults(kind: Any) -> Iterator[str]:
    """Yield what is said too little of in a type, the fields of the records in it included."""
    seen: set[Any] = set()
    todo = [("", kind)]
    while todo:
        place, each = todo.pop()
        if each is Any or each in (dict, list, tuple, set, frozenset):
            yield f"{place}: {each}"
        if each in seen or not isinstance(each, typing.Hashable):
            continue
        seen.add(each)
        todo += [(place, inner) for inner in get_args(each) if not isinstance(inner, list | str | int)]
        if isinstance(each, type) and is_dataclass(each) and issubclass(each, Record):
            hints = get_type_hints(each, localns=for_types(each.__module__))
            todo += [
                (f"{place}.{each.__name__}.{name}", hint)
                for name, hint in hints.items()
                if name not in ("KEYS", "REFERENCE")
            ]


CASES = sorted(
    {name: function for kind in classes() for name, function in functions(kind)}.items(),
    key=lambda case: case[0],
)


assert len(CASES) > 80
assert {"Adapters.list", "Registry.open", "FuseRequest.__init__"} <= dict(CASES).keys()
RECORDS = [kind for kind in classes() if issubclass(kind, Record) and kind is not Record]


def test_public_records_are_typed() -> None:
    assert [fault for kind in RECORDS for fault in faults(kind)] == []


def test_public_methods_are_typed() -> None:
    for name, function in CASES:
        hints = get_type_hints(function, localns=for_types(function.__module__))
        assert inspect.signature(function).parameters.keys() - hints.keys() <= {"self", "cls"}, name
        assert [fault for hint in hints.values() for fault in faults(hint)] == [], name
