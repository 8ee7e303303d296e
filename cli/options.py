"""Arguments and options of commands, derived from the signatures of the methods that the commands call.

A parameter's type, default and text come from the method; `specs` override them with `FLAGS METAVAR: help`, of which
every part is optional, and with a click type or choices as a second item.

An option that no signature has is a flag if it has no metavar.  The metavar N is a number, X a fraction, FILE and
FOLDER are paths, and `a|b` are choices; `...` behind it makes it repeatable, and `(…)` behind that is the default.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click

from fusery.registry.api.parameters import description

MOST = 2**31 - 1

OptionSpec = str | tuple[Any, ...] | click.Parameter


class LocalPath(click.Path):
    """A path on this machine; a URL is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        from fusery.registry.workspace.homes import require_path

        require_path(value)
        return super().convert(value, param, ctx)


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    if len(pairs) != len(values):
        raise click.BadParameter("duplicate tag")
    if any(not key or not value for key, value in pairs.items()):
        raise click.BadParameter("expected KEY=VALUE")
    return pairs


FILE = LocalPath(path_type=Path)
FOLDER = LocalPath(path_type=Path, file_okay=False)
PORT = click.IntRange(0, 65535)
TAGS = click.Option(
    ["tags", "--tag"], multiple=True, metavar="K=V", callback=_pairs, help="A tag; repeatable."
)

_OPTION_SPECS: Mapping[str, OptionSpec] = {
    "alias": "TASK#ALIAS",
    "at": "DATE",
    "every": "--all",
    "extras": "--with REF[:WEIGHT]",
    "form": "--format",
    "jobs": ("N", click.IntRange(1, 256)),
    "limit": ("N", click.IntRange(1, MOST)),
    "models": "--model NAME=SPLIT",
    "note": "TEXT",
    "offset": ("N", click.IntRange(0, MOST)),
    "output": "-o --output FILE",
    "passphrase_file": "FILE: File with the key's passphrase; default: FUSERY_KEY_PASSPHRASE, else a prompt.",
    "port": ("N", PORT),
    "reason": "TEXT",
    "record": ": Record nothing.",
    "reference": "REF",
    "references": "REF...",
    "seed": ("N", click.IntRange(0, MOST)),
    "shots": ("N", click.IntRange(0, 1000)),
    "since": "DATE",
    "tags": TAGS,
    "where": "EXPR",
    "yes": "-y --yes: Do not ask for confirmation; without a terminal, the command never asks.",
}
"""Specifications of parameters for all commands."""

_SPEC = re.compile(r"((?:-\S+ ?)*)([^\s:]\S*?)?(\.\.\.)?(?: (\(\S*\)))?(?:: (.*))?")
"""Flags, metavar, `...`, default and help of an option."""

_FOR_PROGRAMS = ("after", "before", "offset", "via")  # parameters that are options only if `specs` has them

_LEFT_OUT = re.compile(r"Reporter|Callable|Event\b|Request\b|Unpack|store_options")
"""Annotations and names of parameters without options."""


def parameters(
    function: Callable[..., Any],
    of: Iterable[Callable[..., Any]],
    path: str,
    specs: Mapping[str, OptionSpec],
    without: Collection[str],
) -> list[click.Parameter]:
    """Return the parameters of a command.

    Args:
        function: its function; `**` in its signature stands for the method's other parameters.
        specs: specifications of options, and of further options.
        without: parameters of the method without options.
    """
    by_name: dict[str, click.Parameter] = {}
    owner = path  # the operation whose parameters are described, or the command
    if method := next((method for method in of if "." in method.__qualname__), None):
        resource, _, name = method.__qualname__.partition(".")
        owner = f"{getattr(sys.modules[method.__module__], resource).NAME}.{name}"
    for source, parameter in _signature(function, of):
        name = parameter.name
        if name in by_name or name in without or (name in _FOR_PROGRAMS and name not in specs):
            continue
        if not _LEFT_OUT.search(f"{parameter.annotation} {name}"):
            usual = _OPTION_SPECS.get(name, "")
            here = specs.get(name, usual)
            if isinstance(here, str) and isinstance(usual, tuple):
                here = (here, usual[1])
            by_name[name] = (
                here if isinstance(here, click.Parameter) else _parameter(source, parameter, here, owner)
            )
    for name, other in specs.items():
        if name not in by_name:
            by_name[name] = other if isinstance(other, click.Parameter) else _own(name, other, path)
    return list(by_name.values())


def _signature(
    function: Callable[..., Any], of: Iterable[Callable[..., Any]]
) -> Iterator[tuple[Callable[..., Any], inspect.Parameter]]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            for method in of:
                yield from _signature(method, ())
        elif parameter.name not in ("self", "session") and parameter.kind is not parameter.POSITIONAL_ONLY:
            yield function, parameter


_ANNOTATIONS = {"N": "int", "X": "float", "FILE": "Path"}


def _own(name: str, option_spec: str | tuple[Any, ...], path: str) -> click.Parameter:
    """Return an option that no signature has."""
    spec, kind = option_spec if isinstance(option_spec, tuple) else (option_spec, None)
    usual = _OPTION_SPECS.get(name)
    kind = kind or (usual[1] if isinstance(usual, tuple) else FOLDER if spec.startswith("FOLDER") else None)
    match = _SPEC.fullmatch(spec)
    assert match is not None, spec
    flags, metavar, many, default, text = match.groups("")
    if "|" in metavar and metavar.islower():
        kind, metavar = click.Choice(metavar.split("|")), ""
    annotation = _ANNOTATIONS.get(metavar, "str") if metavar or kind else "bool"
    value: Any = default.strip("()") if default else False if annotation == "bool" else None
    parameter = inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=int(value) if default and (metavar == "N" or isinstance(kind, click.IntRange)) else value,
        annotation=f"tuple[{annotation}, ...]" if many else annotation,
    )
    return _parameter(
        _own, parameter, (f"{flags}{metavar}: {text}" if text else f"{flags}{metavar}", kind), path
    )


def _parameter(
    source: Callable[..., Any], parameter: inspect.Parameter, option_spec: OptionSpec, owner: str
) -> click.Parameter:
    spec, kind = option_spec[:2] if isinstance(option_spec, tuple) else (option_spec, None)
    assert isinstance(spec, str)
    head, _, text = spec.partition(": ") if not spec.startswith(": ") else ("", "", spec[2:])
    words = head.split()
    flags = [word for word in words if word.startswith("-") and word != "--"]
    metavar = " ".join(word for word in words if word not in flags)
    annotation = str(parameter.annotation)
    many = annotation.startswith(("Sequence[", "tuple["))
    default = None if parameter.default is parameter.empty or parameter.default == () else parameter.default
    required = parameter.default is parameter.empty
    if isinstance(kind, list):
        kind = click.Choice(kind)
    if kind is None and "bool" not in annotation:
        kind = _type(source, parameter.name, annotation)
    if parameter.kind is not parameter.KEYWORD_ONLY and not flags:
        metavar = metavar or parameter.name.upper()
        metavar = metavar if required or metavar.startswith("[") else f"[{metavar}]"
        return click.Argument(
            [parameter.name], required=required, nargs=-1 if many else 1, metavar=metavar, type=kind
        )
    helped = text or description(owner, parameter.name)
    own = parameter.name.replace("_", "-")
    if "bool" in annotation:
        decls = flags or [f"--no-{own}" if default is True else f"--{own}"]
        flag: Any = {} if "/" in decls[0] else {"is_flag": True, "flag_value": default is not True}
        return click.Option([parameter.name, *decls], **flag, default=default, help=helped)
    if not metavar and not isinstance(kind, click.Choice):
        metavar = {int: "N", float: "X", FILE: "FILE"}.get(kind, parameter.name.upper())
    settings: dict[str, Any] = {}
    if default is not None:
        settings = {"default": default, "show_default": bool(default)}
    return click.Option(
        [parameter.name, *(flags or [f"--{own}"])],
        required=required,
        multiple=many,
        **settings,
        metavar=metavar or None,
        type=kind,
        help=helped,
    )


def _type(source: Callable[..., Any], name: str, annotation: str) -> Any:
    if "Path" in annotation:
        return FILE
    for word, kind in (("int", int), ("float", float), ("str", str), ("Named", str)):
        if re.search(rf"\b{word}\b", annotation):
            return kind
    from fusery.registry.api.operation import hints_of

    named = annotation.removesuffix(" | None")
    if named.startswith("Literal["):
        return click.Choice(ast.literal_eval(named.removeprefix("Literal")))
    hint = vars(sys.modules[source.__module__]).get(named) or hints_of(source)[name]
    while not all(isinstance(arg, str) for arg in get_args(hint)):
        hint = next(arg for arg in get_args(hint) if get_args(arg))
    return click.Choice(get_args(hint))
