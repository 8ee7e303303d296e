"""What must still hold of what a release promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ROLES = ("reader", "publisher", "approver", "admin")
"""From the one that may least."""

AREAS = (
    "commands", "exit codes", "JSON", "HTTP API", "Python API", "plugins", "settings", "findings",
    "log actions",
)  # fmt: skip
"""Parts of `surface` that are held; what lies on disks is read instead."""


def unanswered(then: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield where an answer is not what it was: keys may be added to it, and nothing else may change."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            if key not in now:
                yield f"{where}: {key} is gone"
            else:
                yield from unanswered(value, now[key], f"{where}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from unanswered(one, other, f"{where}[{number}]")
    elif then != now:
        yield f"{where}: {then!r} became {now!r}"


def broken(then: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Return what one surface promised and another does not keep, each by a name that stays the same."""
    promised, offered = set(_promises(then)), set(_promises(now))
    gone = {
        line
        for line in promised - offered
        if f"{line.rpartition(' takes ')[0]} takes anything" not in offered
    }
    # Of what is gone altogether, nothing else is told.
    gone = {line for line in gone if not any(line.startswith(f"{other} ") for other in gone)}
    before = set(_demands(then))
    asked = {
        line
        for owner, line in set(_demands(now)) - before
        if owner in promised and (owner, f"{owner} may be any") not in before
    }
    return {f"{line} is gone" for line in gone} | asked


def _promises(surface: Mapping[str, Any]) -> Iterator[str]:
    for name, command in surface["commands"].items():
        yield f"commands: fusery {name}"
        for flag, facts in command["parameters"].items():
            where = f"commands: fusery {name} {flag}"
            yield where
            yield f"{where} by default {facts.get('default') or False!r}"
            yield f"{where} with a value: {facts.get('takes a value')}"
            yield from [f"{where} many times"] * facts.get("many", False)
            yield from (f"{where} takes {choice}" for choice in facts.get("choices", ["anything"]))
    for area in ("exit codes", "settings"):
        yield from (f"{area}: {name} = {value!r}" for name, value in surface[area].items())
    for area in ("findings", "log actions"):
        yield from (f"{area}: {name}" for name in surface[area])
    for name, document in surface["JSON"].items():
        yield from _printed(f"JSON: {name}:", document)
    for name, route in surface["HTTP API"].items():
        where = f"HTTP API: {name}"
        yield where
        yield from (f"{where} {each}" for each in route["parameters"])
        for kind, schema in route["takes"].items():
            yield from _taken(f"{where} takes {kind}", schema)
        for kind, schema in route["returns"].items():
            yield from _printed(f"{where} returns {kind}", schema)
    for area, name, facts in _classes(surface):
        where = f"{area}: {name}"
        yield where
        yield from (f"{where}.{each}" for each in (*facts["attributes"], *facts["called"]))
        yield from (f"{where} is a {each}" for each in facts.get("is a", ()))
        for each, call in facts["called"].items():
            yield f"{where}.{each}()"
            yield from (f"{where}.{each}() with {argument}" for argument in call["names"])
            yield from (f"{where}.{each}() at {at}: {one}" for at, one in enumerate(call["positions"]))


def _printed(where: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield where
    for key, each in schema.get("keys", {}).items():
        yield from _printed(f"{where} {key}", each)
    yield from (f"{where} always {key}" for key in schema.get("always", ()))
    for part in {"items", "additionalProperties"} & schema.keys():
        yield from _printed(f"{where} {part}", schema[part])


def _taken(where: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield where
    yield from (f"{where} takes {'anything' if kind == 'any' else kind}" for kind in schema["types"])
    for key, each in schema.get("keys", {}).items():
        yield from _taken(f"{where} {key}", each)


def _classes(surface: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for area in ("Python API", "plugins"):
        for name, facts in surface[area].items():
            yield area, name, facts


def _demands(surface: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what callers have to reckon with, a line each, and what has to be there for it to matter."""
    for name, command in surface["commands"].items():
        for flag, facts in command["parameters"].items():
            if facts["required"]:
                yield f"commands: fusery {name}", f"commands: fusery {name} {flag} is required"
    for name, document in surface["JSON"].items():
        yield from _kinds(f"JSON: {name}:", document)
    for name, route in surface["HTTP API"].items():
        where = f"HTTP API: {name}"
        for role in ROLES[: ROLES.index(route["role"]) + 1 if route["role"] else 0]:
            yield where, f"{where} needs the role of {role}"
        yield from (
            (where, f"{where} {each} is required") for each, must in route["parameters"].items() if must
        )
        for kind, schema in route["takes"].items():
            yield from _required(f"{where} takes {kind}", schema)
        for kind, schema in route["returns"].items():
            yield from _kinds(f"{where} returns {kind}", schema)
    for area, name, facts in _classes(surface):
        for each, call in facts["called"].items():
            where = f"{area}: {name}.{each}()"
            yield from (
                (where, f"{where} requires {one}") for one, its in call["names"].items() if its["required"]
            )


def _kinds(where: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    integers = {"integer"} if "number" in schema["types"] else set()
    yield from ((where, f"{where} may be {kind}") for kind in {*schema["types"], *integers})
    for key, each in schema.get("keys", {}).items():
        yield from _kinds(f"{where} {key}", each)
    for part in {"items", "additionalProperties"} & schema.keys():
        yield from _kinds(f"{where} {part}", schema[part])


def _required(where: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((where, f"{where} {key} is required") for key in schema.get("always", ()))
    for key, each in schema.get("keys", {}).items():
        yield from _required(f"{where} {key}", each)
