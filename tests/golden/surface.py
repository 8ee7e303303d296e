"""What others build on, as one JSON document: commands, exit codes, keys of documents, routes, the Python API, names of formats."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import click
from make_reference import signature_of

import fusery
import fusery.registry
import fusery.storage
import fusery.web
from fusery.cli.documents import document_of, documents
from fusery.cli.main import INTERRUPTED, OTHER_ERRORS, TERMINATED, cli
from fusery.registry import Registry
from fusery.registry.admission.rules import CODES
from fusery.registry.api.resource import Resource
from fusery.registry.api.schema import schema_of
from fusery.registry.database import schema
from fusery.registry.database.events import ACTIONS
from fusery.registry.record import Record
from fusery.registry.records.trust import Role
from fusery.registry.workspace.settings import Settings, variable_of
from fusery.storage.errors import FuseryError
from fusery.storage.plugins import GROUPS

PLUGINS = (
    "fusery.registry.adapters.Finding", "fusery.registry.admission.candidate.BaseFacts",
    "fusery.registry.admission.candidate.Candidate", "fusery.registry.admission.code.Code",
    "fusery.registry.admission.code.rule", "fusery.registry.bundles.BundleSource",
    "fusery.registry.bundles.Choices", "fusery.registry.bundles.Target", "fusery.registry.bundles.Layout",
    "fusery.registry.bundles.LayoutError", "fusery.registry.bundles.model_layout",
    "fusery.registry.bundles.bundle_record", "fusery.registry.bundles.sealed_bytes",
    "fusery.registry.bundles.BundleFolder", "fusery.registry.exchange.tracked_run.TrackedRun",
    "fusery.registry.registration.training_record.RunRecord", "fusery.storage.digest.digest_file",
    "fusery.storage.interface.BlobStore", "fusery.storage.locate.Protocol", "fusery.storage.locate.open_store",
    "fusery.testing.rules.RuleContract", "fusery.testing.samples.adapter_source",
    "fusery.testing.samples.candidate", "fusery.testing.samples.fused_source",
    "fusery.testing.samples.make_adapter", "fusery.testing.samples.make_base",
    "fusery.testing.sources.SourceContract", "fusery.testing.stores.Backend",
    "fusery.testing.stores.StoreContract", "fusery.testing.targets.TargetContract",
)  # fmt: skip
"""What plugins may import: all that the example does, and the suites."""

_DEFINES = re.compile(r"^class \w+Error\(", re.MULTILINE)


def surface() -> dict[str, Any]:
    return {
        "commands": dict(sorted(commands())),
        "exit codes": exit_codes(),
        "JSON": {name: whole(schema_of(document_of(name))) for name in documents()},
        "HTTP API": routes(),
        "Python API": python(),
        "plugins": plugins(),
        "settings": {field.name: variable_of(field.name) for field in fields(Settings)},
        "findings": sorted(CODES),
        "log actions": sorted(ACTIONS),
        "formats": formats(),
    }


def commands() -> Iterator[tuple[str, dict[str, Any]]]:
    context = click.Context(cli, info_name="fusery")
    yield "", {"parameters": _parameters(cli)}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield from _below(name, command)


def _below(name: str, command: click.Command) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in sorted(command.list_commands(context)):
            below = command.get_command(context, inner)
            assert below is not None
            yield from _below(f"{name} {inner}", below)
        return
    yield name, {"parameters": _parameters(command)}


def _parameters(command: click.Command) -> dict[str, Any]:
    found: dict[str, Any] = {}
    arguments = 0
    for each in command.params:
        facts: dict[str, Any] = {"required": each.required, "many": each.multiple or each.nargs != 1}
        if isinstance(each.type, click.Choice):
            facts["choices"] = sorted(map(str, each.type.choices))
        if isinstance(
            each.default, str | int | float
        ):  # what is computed when the command runs says nothing that lasts
            facts["default"] = each.default
        if isinstance(each, click.Option):
            for flag in (*each.opts, *each.secondary_opts):
                found[flag] = facts | {"takes a value": not (each.is_flag or each.count)}
        else:
            arguments += 1
            found[f"argument {arguments}"] = facts
    return found


def exit_codes() -> dict[str, int]:
    for package in (fusery.storage, fusery.registry, fusery.web):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            if _DEFINES.search(path.read_text(encoding="utf-8")):
                inner = path.relative_to(root).with_suffix("").parts
                importlib.import_module(".".join([package.__name__, *inner]))
    codes = {kind.code: kind.exit_code for kind in _kinds(FuseryError)}
    codes |= {name: code for name, (code, _) in OTHER_ERRORS.items()}
    return dict(sorted(codes.items())) | {"interrupted": INTERRUPTED, "ended by SIGTERM": TERMINATED}


def _kinds(kind: type[FuseryError]) -> Iterator[type[FuseryError]]:
    for inner in kind.__subclasses__():
        if "code" in vars(inner) and inner.__module__.startswith("fusery."):
            yield inner
        yield from _kinds(inner)


def routes() -> dict[str, Any]:
    from fusery.web.app import create_app
    from fusery.web.auth import LocalAuth
    from fusery.web.routes import document

    app = create_app(Registry.open(), LocalAuth("anna"))
    made = document(app, app.state.routes.made)
    roles = {
        f"{each.method} {each.path.replace(':path}', '}')}": each.role
        for each in app.state.routes.made
        if each.described
    }
    found = {}
    for path, methods in made["paths"].items():
        for method, entry in methods.items():
            name = f"{method.upper()} {path}"
            done = entry["responses"]["200"]["content"]
            asked = entry.get("requestBody", {}).get("content", {})
            found[name] = {
                "role": roles[name],
                "parameters": {
                    f"{each['in']} {each['name']}": bool(each.get("required"))
                    for each in entry.get("parameters", ())
                },
                "takes": {
                    kind: whole(each.get("schema", {}), made["components"]["schemas"])
                    for kind, each in asked.items()
                },
                "returns": {
                    kind: whole(each["schema"], made["components"]["schemas"]) for kind, each in done.items()
                },
            }
    return dict(sorted(found.items()))


def whole(
    schema: Mapping[str, Any], known: Mapping[str, Any] | None = None, within: tuple[str, ...] = ()
) -> Any:
    """Return what a JSON Schema says of keys and types, in one piece: `{"types": [...], "keys": {...}, "items": ...}`."""
    known = known if known is not None else schema.get("$defs", {})
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        # A record that holds its own kind is described once.
        return {"types": [name]} if name in within else whole(known[name], known, (*within, name))
    if "anyOf" in schema:
        parts = [whole(each, known, within) for each in schema["anyOf"]]
        joined: dict[str, Any] = {"types": sorted({kind for part in parts for kind in part["types"]})}
        for part in parts:
            for key, value in part.items():
                if key == "types":
                    continue
                # Of several records each key is one that may be there, and it is there always only where all have it.
                if isinstance(value, dict) and isinstance(joined.get(key), dict) and key == "keys":
                    joined[key] = {**joined[key], **value}
                elif key == "always" and key in joined:
                    joined[key] = sorted({*joined[key]} & {*value})
                else:
                    joined.setdefault(key, value)
        return joined
    found: dict[str, Any] = {"types": [schema.get("type", "any")]}
    if "properties" in schema:
        found["keys"] = {key: whole(each, known, within) for key, each in schema["properties"].items()}
        found["always"] = sorted(schema.get("required", []))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = whole(schema[key], known, within)
    return found


def python() -> dict[str, Any]:
    found = {name: _class(getattr(fusery, name)) for name in fusery.registry.__all__}
    for name, kind in resources().items():
        found[f"registry.{name}"] = _class(kind)
    return found


def plugins() -> dict[str, Any]:
    found: dict[str, Any] = {group: {"called": {}, "attributes": []} for group in GROUPS}
    for place in PLUGINS:
        module, _, name = place.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if name.endswith("Contract"):
            found[place] = {"called": {}, "attributes": []}  # its tests may become others
        elif inspect.isclass(value):
            found[place] = _class(value)
        else:
            found[place] = {"called": {"": _parameters_of(value)}, "attributes": []}
    return found


def resources() -> dict[str, type]:
    with Registry.open() as registry:
        return {name: type(value) for name, value in vars(registry).items() if isinstance(value, Resource)}


def _class(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {"called": {}, "attributes": []}
    if issubclass(kind, FuseryError):
        found["is a"] = [each.__name__ for each in kind.__mro__[1:] if each is not object]
    for name in dir(kind):
        if name.startswith("_") and name != "__init__":
            continue
        if name == "__init__" and issubclass(kind, Record | Resource | Registry):
            continue  # fusery makes them
        value = inspect.getattr_static(kind, name)
        function = getattr(value, "__func__", value)
        if not inspect.isfunction(function):
            found["attributes"].append(name)
        elif function.__module__.startswith("fusery."):
            found["called"][name] = _parameters_of(function)
    found["attributes"] = sorted({*found["attributes"], *getattr(kind, "__annotations__", {})})
    return found


def _parameters_of(function: Any) -> dict[str, Any]:
    parameters = [
        each for each in signature_of(function).parameters.values() if each.name not in ("self", "cls")
    ]
    return {
        "positions": [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY],
        "names": {
            each.name: {"required": each.default is each.empty and each.kind not in _STARRED}
            for each in parameters
        },
    }


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def formats() -> dict[str, Any]:
    from fusery.registry import documents
    from fusery.registry.engine import calibration, recipe
    from fusery.registry.remote import documents as packages
    from fusery.storage import layout, manifest

    return {
        "schema": schema.HEAD, "store": layout.LAYOUT, "manifest": manifest.FORMAT,
        "bundle": documents.BUNDLE_FORMAT, "export": documents.FORMAT, "backup": packages.FORMAT,
        "package": packages.FORMAT, "key": recipe.FORMAT, "calibration": calibration.FORMAT,
        "engines": [recipe.ENGINE, recipe.SEEING], "roles": list(get_args(Role)),
    }  # fmt: skip
