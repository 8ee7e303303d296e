"""What can be asked of a registry, described once: the method's signature and docstring, the role that it needs, read or write.

On a registry of this machine the method runs; on a server's, the same call is sent there.  The routes of the server, its OpenAPI
document and the client all come from this description.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from ..records.token import Role
    from .resource import Resource

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One thing that can be asked of a registry.

    Attributes:
        method: does it, on a registry of this machine.
        role: that a server's client needs.
        writes: it changes what is on record.
    """

    method: Callable[..., Any]
    role: Role
    writes: bool

    @property
    def name(self) -> str:
        """As paths and programs have it: `withdraw-approval`."""
        return self.method.__name__.strip("_").replace("_", "-")

    @property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return (inspect.getdoc(self.method) or "").partition("\n")[0]

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What it takes, without the resource itself; keywords of an unpacked `TypedDict` one by one."""
        found = dict[str, inspect.Parameter]()
        for name, each in inspect.signature(self.method).parameters.items():
            if each.kind is each.VAR_KEYWORD:
                keywords = get_args(hints_of(self.method)[name])[0].__annotations__
                found |= {key: inspect.Parameter(key, each.KEYWORD_ONLY, default=None) for key in keywords}
            elif name != "self":
                found[name] = each
        return found

    @property
    def returns(self) -> Any:
        """The type of its result; nothing else is imported for it."""
        return _resolved(self.method, {"return": self.method.__annotations__["return"]})["return"]

    @property
    def hints(self) -> Mapping[str, Any]:
        """The types of what it takes, and of what it returns as `return`."""
        found = dict(hints_of(self.method))
        for name, each in inspect.signature(self.method).parameters.items():
            if each.kind is each.VAR_KEYWORD:
                found |= get_type_hints(get_args(found.pop(name))[0])
        return found

    def arguments(self, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a call gives, by name, without what equals its default.

        Raises:
            TypeError: the method does not take that.
        """
        bound = inspect.signature(self.method).bind(None, *args, **keywords)
        parameters = self.parameters
        given = dict(bound.arguments)
        for name, each in bound.signature.parameters.items():
            if each.kind is each.VAR_KEYWORD:
                given |= given.pop(name, {})
        return {
            name: value
            for name, value in given.items()
            if name in parameters and value is not parameters[name].default
        }


def operation(role: Role, *, writes: bool = False) -> Callable[[F], F]:
    """Make a method of a resource an operation: on a server's registry, it is asked of the server.

    Args:
        role: that a server's client needs.
        writes: it changes what is on record.
    """

    def wrap(method: F) -> F:
        described = Operation(method, role, writes)

        @wraps(method)
        def run(self: Resource, *args: Any, **keywords: Any) -> Any:
            if self.server is None:
                return method(self, *args, **keywords)
            given = described.arguments(args, keywords)
            path = f"{self.NAME}/{described.name}"
            return self.server.ask(path, given, described.returns, writes=writes)

        run.operation = described  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return wrap


def operations_of(resource: type[Resource]) -> Iterator[Operation]:
    """Yield the operations of a resource, in their order."""
    for each in vars(resource).values():
        if isinstance(found := getattr(each, "operation", None), Operation):
            yield found


@cache
def hints_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types in a function's signature, those too that its module imports for type checkers only."""
    return _resolved(function, function.__annotations__)


def _resolved(function: Callable[..., Any], annotations: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the types that annotations name.

    Of the imports for type checkers, only those that they name are made: a client imports no SQL.
    """
    imports = _checked_imports(function.__module__)
    names = {name for text in annotations.values() for name in compile(text, "", "eval").co_names}
    found = dict(vars(sys.modules[function.__module__]))
    for name in names & imports.keys():
        source, original = imports[name]
        found[name] = getattr(importlib.import_module(source), original)
    return get_type_hints(SimpleNamespace(__annotations__=annotations), found)


@cache
def _checked_imports(name: str) -> Mapping[str, tuple[str, str]]:
    """Return what a module imports for type checkers only: each name's module, and its name there."""
    module, found = sys.modules[name], dict[str, tuple[str, str]]()
    for block in ast.parse(inspect.getsource(module)).body:
        if (
            isinstance(block, ast.If)
            and isinstance(block.test, ast.Name)
            and block.test.id == "TYPE_CHECKING"
        ):
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                source = importlib.util.resolve_name(
                    "." * node.level + (node.module or ""), module.__package__
                )
                found |= {each.asname or each.name: (source, each.name) for each in node.names}
    return found
