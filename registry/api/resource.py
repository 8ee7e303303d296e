"""The base class of the Python API's resources, references as arguments, and methods that only call a use case."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from fusery.storage.digest import parse_digest
from fusery.storage.jsonfile import is_keepable
from fusery.storage.progress import SILENT, Reporter

from ..errors import BadInputError, UnknownReferenceError
from ..parts import part
from ..record import Record

if TYPE_CHECKING:
    from fusery.storage.digest import Digest

    from ..remote.server import Server
    from ..workspace.workspace import Workspace


Named = str | Record  # a reference: a string as on the command line, or a record that has a name


def named(reference: Named) -> str:
    """Return a reference as a string."""
    if isinstance(reference, str):
        return reference
    if isinstance(reference, Record) and reference.REFERENCE:
        return str(getattr(reference, reference.REFERENCE))
    raise BadInputError(f"invalid reference: {type(reference).__name__}", hint="pass a string or a record")


def reference_texts(references: Sequence[Named] | Named) -> list[str]:
    """Return references as strings; accept a single reference, too."""
    several = [references] if isinstance(references, str | Record) else references
    return [named(reference) for reference in several]


def text_for_log(text: str) -> str:
    """Return a reason or note for the log, after validation."""
    if is_keepable(text):
        return text
    raise BadInputError(f"invalid text: {text[:60]!r} (NUL or a lone surrogate in it)", hint="remove it")


def require_digest(text: str) -> Digest:
    """Return a digest."""
    try:
        return parse_digest(text)
    except ValueError as error:
        raise BadInputError(f"invalid digest: {text[:80]!r}", hint="give 64 lower-case hex digits") from error


def moment(at: datetime | str | None) -> str | None:
    """Return a time as a string for the command line's functions."""
    return at.isoformat() if isinstance(at, datetime) else at


class Resource:
    """A resource of a registry, such as `registry.adapters`."""

    NAME: ClassVar[str]

    def __init_subclass__(cls, *, name: str = "") -> None:
        cls.NAME = name or cls.__name__.lower()

    def __init__(self, workspace: Workspace, server: Server | None = None) -> None:
        self.workspace, self.server = workspace, server

    def local(self, what: str) -> Workspace:
        """Return the workspace of a local registry."""
        if self.server is None:
            return self.workspace
        raise BadInputError(f"cannot {what} a server's registry from here", hint="run it on the server")

    @contextmanager
    def here(
        self, *references: Named, reporter: Reporter = SILENT, send: bool = True
    ) -> Iterator[tuple[Workspace, list[str]]]:
        """Yield the workspace to compute with things on this machine, and their names there; a server's are fetched, and sent back."""
        names = [named(reference) for reference in references]
        if self.server is None:
            yield self.workspace, names
            return
        from ..exchange.exchange import fetched
        from ..records.transfer import Resolved
        from ..records.trust import OwnIdentity
        from ..releases.aliases import set_alias

        ask, wanted = self.server.ask, list[Resolved]()
        registry = ask("tokens/own", {}, OwnIdentity, writes=False).registry
        for name in names:
            try:
                wanted.append(ask("provenance/resolve", {"reference": name}, Resolved, writes=False))
            except UnknownReferenceError:
                self._remove_alias(name)  # it is gone there
                raise
        # Downloads show a progress bar only, so that messages are the same as for a local registry.
        with fetched(
            self.workspace,
            self.server,
            registry,
            wanted,
            say=reporter.say,
            progress=reporter.progress,
            send=send,
        ):
            for name, record in zip(names, wanted, strict=True):  # an alias holds here what it holds there
                if record.kind == "adapter" and "#" in name and record.yanked:
                    self._remove_alias(name)
                elif record.kind == "adapter" and "#" in name:
                    set_alias(self.workspace, name.strip().casefold(), record.name)
            yield self.workspace, [record.name for record in wanted]

    def _remove_alias(self, reference: str) -> None:
        from ..releases.aliases import remove_alias

        if "#" in reference and not self.workspace.is_unmade:
            with suppress(BadInputError, UnknownReferenceError):
                remove_alias(self.workspace, reference)


F = TypeVar("F", bound=Callable[..., Any])


def runs(use_case: str, *, here: bool = False, local: str = "") -> Callable[[F], F]:
    """Make a method call a use case with the registry's parts and its own arguments, converted as the use case needs them.

    `use_case` is a module and function (`fusery.research.bench:bench` of a part).  With `here` it computes on this machine, with
    the referenced records; `local` is the verb for the error message that it cannot run on a server's registry.
    """

    def wrap(method: F) -> F:
        @wraps(method)
        def run(self: Resource, *args: Any, **keywords: Any) -> Any:
            function, bound = use_case_of(run), _signature(method).bind(self, *args, **keywords)
            bound.apply_defaults()
            taken, given = _signature(function).parameters, bound.arguments
            for name, value in given.items():
                if name != "self":
                    given[name] = _converted(name, str(method.__annotations__[name]), value, taken)
            extra: dict[str, object] = {}
            reporter = given.get("reporter", SILENT)
            if "reporter" in given and "say" in taken:
                extra["say"] = given.pop("reporter").say
            if not here:
                workspace = self.local(local) if local else self.workspace
                return function(workspace, *bound.args[1:], **bound.kwargs, **extra)
            if "register" in taken:
                extra["register"] = self._register_made  # type: ignore[attr-defined]
            reference = next((name for name in given if name in ("reference", "references", "name")), "")
            value = given[reference] if reference else []
            several = value if isinstance(value, list) else [value]
            others = getattr(given.get("request"), "others", ())
            bases = [given["base"]] if given.get("base") is not None else []
            with self.here(*several, *others, *bases, reporter=reporter) as (workspace, names):
                if others:
                    given["request"] = given["request"].with_others(names[len(several) :])
                if bases:
                    given["base"] = names[-1]
                if reference:
                    given[reference] = names[: len(several)] if several is value else names[0]
                return function(workspace, *bound.args[1:], **bound.kwargs, **extra)

        run.use_case = use_case  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return wrap


def use_case_of(method: Any) -> Callable[..., Any]:
    """Return the function that a method calls."""
    module, _, name = method.use_case.partition(":")
    if module.startswith("fusery."):
        return part(method.use_case.removeprefix("fusery."))  # type: ignore[no-any-return]
    function: Callable[..., Any] = getattr(import_module(f"..{module}", __package__), name)
    return function


@cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(method)


def _converted(name: str, annotation: str, value: Any, taken: Mapping[str, inspect.Parameter]) -> Any:
    if value is None:
        return None
    if annotation.startswith("str | Path"):
        of = str(taken[name].annotation)
        return value if "str | Path" in of else Path(value) if "Path" in of else str(value)
    if "Sequence[Named]" in annotation:
        return reference_texts(value)
    if annotation.startswith("Named"):
        return named(value)
    if annotation.startswith("datetime"):
        return moment(value)
    if name in ("reason", "note", "restart_reason"):
        return text_for_log(value)
    return (text_for_log(value) or None) if name == "via" else value
