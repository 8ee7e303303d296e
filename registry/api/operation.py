"""Operations: methods of the Python API that run here, or on the server; routes, OpenAPI and client derive from them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_type_hints

from ..record import parts_of

if TYPE_CHECKING:
    from ..records.trust import Role
    from .resource import Resource

F = TypeVar("F", bound=Callable[..., Any])

PAGE = 1_000  # the most records of one response with a list; the client requests longer lists page by page


class Paging(NamedTuple):
    """How the next page of a list is requested."""

    key: str = "offset"  # the parameter that changes from page to page
    field: str = ""  # the field of a page's last record that `key` is set to; empty if `key` is the offset
    newest: bool = False  # whether the first page has the newest records, and each further one those before


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operation of a registry."""

    method: Callable[..., Any]
    role: Role
    writes: bool
    pages: Paging | None = None

    @property
    def name(self) -> str:
        """Return its name in URLs, such as `withdraw-approval`."""
        return self.method.__name__.strip("_").replace("_", "-")

    @property
    def summary(self) -> str:
        """Return the first line of the method's docstring."""
        return (inspect.getdoc(self.method) or "").partition("\n")[0]

    def description_of(self, resource: str, parameter: str) -> str:
        """Return the description of a parameter, or an empty string; keywords of a `TypedDict` are fields of an adapter."""
        from ..records.adapter_details import AdapterDetails
        from .parameters import description

        part = parts_of(AdapterDetails).get(parameter)
        if part and part.about.text and parameter not in inspect.signature(self.method).parameters:
            return f"{part.about.text[:1].upper()}{part.about.text[1:]}."
        return description(f"{resource}.{self.method.__name__.strip('_')}", parameter)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Return its parameters without `self`; an unpacked `TypedDict` is one parameter for each key."""
        by_name = dict[str, inspect.Parameter]()
        for name, parameter in inspect.signature(self.method).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                keywords = get_args(hints_of(self.method)[name])[0].__annotations__
                by_name |= {
                    key: inspect.Parameter(key, parameter.KEYWORD_ONLY, default=None) for key in keywords
                }
            elif name != "self":
                by_name[name] = parameter
        return by_name

    @property
    def returns(self) -> Any:
        """Return the type of its result; import only the module of that type."""
        return _resolved(self.method, {"return": self.method.__annotations__["return"]})["return"]

    @property
    def hints(self) -> Mapping[str, Any]:
        """Return the types of its parameters, and of its result under the key `return`."""
        type_hints = dict(hints_of(self.method))
        for name, parameter in inspect.signature(self.method).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                type_hints |= get_type_hints(get_args(type_hints.pop(name))[0])
        return type_hints

    def arguments(self, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call by name, without those that equal their default."""
        bound = inspect.signature(self.method).bind(None, *args, **keywords)
        parameters = self.parameters
        given = dict(bound.arguments)
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return {
            name: value
            for name, value in given.items()
            if name in parameters and value is not parameters[name].default
        }

    def listed(self, ask: Callable[[Mapping[str, Any]], list[Any]], given: Mapping[str, Any]) -> list[Any]:
        """Return a list that is requested page by page."""
        assert self.pages is not None
        key, field, newest = self.pages
        records, most, start = list[Any](), given.get("limit"), given.get("offset", 0)
        while True:
            size = PAGE if most is None else min(PAGE, most - len(records))
            page = ask({**given, "limit": size})
            records = [*page, *records] if newest else [*records, *page]
            if len(page) < size or len(records) == most:
                return records
            last = page[0 if newest else -1]
            given = {**given, key: getattr(last, field) if field else start + len(records)}


def operation(
    role: Role, *, writes: bool = False, begins: bool = False, pages: Paging | None = None
) -> Callable[[F], F]:
    """Make a method an operation (see `Operation`); one that `begins` makes a missing registry, unless it is a dry run."""

    def wrap(method: F) -> F:
        described = Operation(method, role, writes, pages)

        @wraps(method)
        def run(self: Resource, *args: Any, **keywords: Any) -> Any:
            if self.server is None:
                if begins and not keywords.get("dry_run"):
                    self.workspace.make_embedded()
                return method(self, *args, **keywords)
            given = described.arguments(args, keywords)
            ask = partial(
                self.server.ask, f"{self.NAME}/{described.name}", returns=described.returns, writes=writes
            )
            return described.listed(ask, given) if pages else ask(given)

        run.operation = described  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return wrap


def operations_of(resource: type[Resource]) -> Iterator[Operation]:
    """Yield the operations of a resource in order of definition."""
    for var in vars(resource).values():
        if isinstance(resource_operation := getattr(var, "operation", None), Operation):
            yield resource_operation


@cache
def hints_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types in a function's signature, including imports under `TYPE_CHECKING`."""
    return _resolved(function, function.__annotations__)


def _resolved(function: Callable[..., Any], annotations: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the types that annotations name; import only their modules, so that a client does not import SQLAlchemy."""
    imports = _checked_imports(function.__module__)
    names = {name for text in annotations.values() for name in compile(text, "", "eval").co_names}
    namespace = dict(vars(sys.modules[function.__module__]))
    for name in names & imports.keys():
        source, original = imports[name]
        namespace[name] = getattr(importlib.import_module(source), original)
    return get_type_hints(SimpleNamespace(__annotations__=annotations), namespace)


@cache
def _checked_imports(name: str) -> Mapping[str, tuple[str, str]]:
    """Return the imports of a module under `TYPE_CHECKING`: local name to module and name."""
    module, imports = sys.modules[name], dict[str, tuple[str, str]]()
    for block in ast.parse(inspect.getsource(module)).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                path = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__)
                imports |= {alias.asname or alias.name: (path, alias.name) for alias in node.names}
    return imports
