"""Commands, made from functions and from the methods of the Python API that they call."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from fusery.registry.errors import UnknownReferenceError
from fusery.storage.errors import typed

from .commands import GROUPS
from .completing import Recorded
from .groups import Group
from .options import OptionSpec, parameters
from .session import Session

F = TypeVar("F", bound=Callable[..., Any])
Method = Callable[..., Any]
Names = str | Callable[[Any], Iterable[Any]]

_NOT_GIVEN: tuple[object, ...] = (None, False, (), {})  # values of options that a user left out
MADE: dict[str, click.Command] = {}  # the commands and groups of the imported modules, by their full names

PRINTED: dict[str, Method | str] = {}
"""By command: the method that returns what `--json` prints, or the name of its record; see `documents`."""


def command(
    path: str,
    of: Method | Sequence[Method] = (),
    /,
    *,
    document: str | None = None,
    kind: type[click.Command] = click.Command,
    needs: Mapping[str, str] | None = None,
    excludes: Collection[str] = (),
    without: Collection[str] = (),
    rare: str = "",
    verbose: str = "",
    **specs: OptionSpec,
) -> Callable[[F], F]:
    """Make a function a command that takes the session first and has `--json` and `-q`.

    Args:
        path: the command's full name, such as `alias set`.
        of: the methods or functions whose parameters replace `**` in the function's signature.
        document: the record that `--json` prints, if it differs from the method's result; see `documents`.
        needs: options that need another one, by parameter.
        excludes: mutually exclusive options.
        without: parameters of the method without options.
        rare: parameters whose options only --help-all shows, separated by spaces.
        verbose: the help of `-v`; empty for a command without it.
        specs: options that differ from the signature; see `options`.
    """

    def wrap(function: F) -> F:
        def run(as_json: bool, quiet: bool, detail: bool = False, **options: Any) -> Any:
            session = click.get_current_context().find_object(Session)
            assert session is not None
            session.json, session.quiet, session.verbose = as_json, quiet, detail
            if as_json and quiet:
                raise click.UsageError("--json and -q exclude each other.")
            for name, value in options.items():
                # Non-UTF-8 bytes of an argument become lone surrogates, which databases refuse.
                if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
                    raise click.UsageError(f"The value for {name!r} is not UTF-8 text.")
            for name, other in (needs or {}).items():
                if options[name] not in _NOT_GIVEN and options[other] in _NOT_GIVEN:
                    raise click.UsageError(f"{flags[name]} goes with {flags[other]}.")
            if sum(options[name] not in _NOT_GIVEN for name in excludes) > 1:
                raise click.UsageError(f"{' and '.join(flags[one] for one in excludes)} exclude each other.")
            try:
                return function(session, **options)
            except UnknownReferenceError as error:
                base = str(options.get("base"))
                if f"base model {base!r}" in error.message and (Path(base) / "config.json").is_file():
                    error.hint = f"fusery base add {typed(base)}"
                raise

        sources = [of] if callable(of) else of
        params = parameters(function, sources, path, specs, without)
        flags = {str(parameter.name): parameter.opts[0] for parameter in params}
        for parameter in params:
            if type(parameter.type) is click.types.StringParamType:
                parameter.type = Recorded()
        if verbose:
            params.append(_flag("-v", "detail", verbose))
        if rare:
            for parameter in params:
                if parameter.name in rare.split():
                    parameter.hidden = True  # type: ignore[attr-defined]
            params.append(_HELP_ALL)
        params.append(_flag("--json", "as_json", "Print one JSON document."))
        params.append(_flag("-q", "--quiet", "Print names or paths only."))
        # A line that is a backspace makes click keep the lines of the paragraph below it.
        text = re.sub("(?m)^(Examples|Targets):$", "\b\n\\g<0>", inspect.getdoc(function) or "")
        _add(path, kind(path.rpartition(" ")[2], callback=run, params=params, help=text))
        if printed := document or next(iter(sources), None):
            PRINTED[path] = printed
        return function

    return wrap


def _help_all(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the help with all options, which are hidden again afterwards."""
    if not value or ctx.resilient_parsing:
        return
    hidden = [param for param in ctx.command.params if isinstance(param, click.Option) and param.hidden]
    for option in hidden:
        option.hidden = False
    try:
        click.echo(ctx.get_help())
    finally:
        for option in hidden:
            option.hidden = True
    ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_help_all,
    help="Show all options and exit.",
)


def _add(path: str, made: click.Command) -> None:
    """Add a command to its group; those of `admin` and at the top are imported from the table."""
    group, _, name = path.rpartition(" ")
    if group not in ("", "admin"):
        if group not in MADE:
            _add(group, Group(group.rpartition(" ")[2], help=GROUPS[group]))
        outer = MADE[group]
        assert isinstance(outer, Group)
        outer.add_command(made, name)
    MADE[path] = made


def prints(
    path: str,
    of: Method,
    /,
    *,
    names: Names = "name",
    progress: str | Callable[[Mapping[str, Any]], str] = "",
    counting: str | Callable[[Mapping[str, Any]], str] = "",
    given: Callable[[], Mapping[str, Any]] = dict,
    text: str = "",
    **settings: Any,
) -> Callable[[F], F]:
    """Make a function that prints a method's result for people a command, which calls the method.

    Args:
        names: what `-q` prints: an attribute of each result, or a function of the whole.
        progress: the label of a bar in bytes, or a function of the options that returns it.
        text: the command's help, if it is not the function's docstring.
        settings: those of `command`.  The function has the session, the result, and the options that it names.
    """

    def wrap(view: F) -> F:
        wanted = [*inspect.signature(view).parameters][2:]
        reports = "reporter" in inspect.signature(of).parameters

        def run(session: Session, **options: Any) -> None:
            bar: AbstractContextManager[Any] = nullcontext()
            if label := progress or counting:
                shown = label(options) if callable(label) else label
                bar = session.progress(shown) if progress else session.counting(shown)
            with bar as progress_bar:
                more = {**given(), **({"reporter": session.reporter(progress_bar)} if reports else {})}
                result = method_of(session, of)(**options, **more)
            chosen = {name: options[name] for name in wanted}
            session.emit(result, names=_names(result, names), human=lambda: view(session, result, **chosen))

        run.__doc__ = text or view.__doc__
        command(path, of, **settings)(run)
        return view

    return wrap


def listing(
    path: str,
    of: Method,
    text: str,
    columns: str,
    *,
    none: str = "",
    cells: Mapping[str, Callable[[Any], str]] | None = None,
    **settings: Any,
) -> None:
    """Make a command that prints a table of the records that a method returns."""

    def view(session: Session, rows: Any) -> None:
        from fusery.registry.api.operation import hints_of

        from .columns import record_table

        described = getattr(of, "operation", None)
        [kind] = get_args(described.returns if described else hints_of(of)["return"])
        session.print_table(record_table(kind, rows, columns, **(cells or {})))
        if none and not rows:
            session.say(none)

    prints(path, of, text=text, **settings)(view)


def method_of(session: Session, of: Method) -> Method:
    """Return a method of a resource, bound to the session's registry."""
    owner, _, name = of.__qualname__.partition(".")
    resource = getattr(session.registry, getattr(sys.modules[of.__module__], owner).NAME)
    method: Method = getattr(resource, name)
    return method


def _names(result: Any, names: Names) -> Iterable[str]:
    if callable(names):
        return map(str, names(result))
    records = result if isinstance(result, list | tuple) else [result]
    return [str(attrgetter(names)(record) or "") for record in records]


def _flag(first: str, second: str, text: str) -> click.Option:
    return click.Option([first, second], is_flag=True, help=text)
