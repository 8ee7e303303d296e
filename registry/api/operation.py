"""Operations: methods of the Python API that also run on a server.

On a local registry, the method runs.  On a server's registry, the client sends the call to the server.  The
server's routes, its OpenAPI document and the client are derived from the method's signature, docstring and
role.
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
    """An operation of a registry.

    Attributes:
        method: the method that runs it on a local registry.
        role: the role that a client of a server needs.
        writes: whether it changes records.
    """

    method: Callable[..., Any]
    role: Role
    writes: bool

    @property
    def name(self) -> str:
        """Return its name in URLs, such as `withdraw-approval`."""
        return self.method.__name__.strip("_").replace("_", "-")

    @property
    def summary(self) -> str:
        """Return the first line of the method's docstring."""
        return (inspect.getdoc(self.method) or "").partition("\n")[0]

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Return its parameters without `self`; an unpacked `TypedDict` is one parameter for each key."""
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
        """Return the type of its result; import only the module of that type."""
        return _resolved(self.method, {"return": self.method.__annotations__["return"]})["return"]

    @property
    def hints(self) -> Mapping[str, Any]:
        """Return the types of its parameters, and of its result under the key `return`."""
        found = dict(hints_of(self.method))
        for name, each in inspect.signature(self.method).parameters.items():
            if each.kind is each.VAR_KEYWORD:
                found |= get_type_hints(get_args(found.pop(name))[0])
        return found

    def arguments(self, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, without those that equal their default.

        Raises:
            TypeError: the arguments do not fit the method's signature.
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
    """Make a method of a resource an operation: on a server's registry, call the server instead.

    Args:
        role: the role that a client of a server needs.
        writes: whether it changes records.
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
    """Yield the operations of a resource in order of definition."""
    for each in vars(resource).values():
        if isinstance(found := getattr(each, "operation", None), Operation):
            yield found


@cache
def hints_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types in a function's signature, including imports under `TYPE_CHECKING`."""
    return _resolved(function, function.__annotations__)


def _resolved(function: Callable[..., Any], annotations: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the types that annotations name.

    Import only the modules of those types, so that a client does not import SQLAlchemy.
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
    """Return the imports of a module under `TYPE_CHECKING`: local name to module and name."""
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
