"""What must still hold of what a release promised: each function names what does not, in words that say where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ROLES = ("reader", "publisher", "approver", "admin")
"""From the one that may least."""


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


def broken(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what one surface promised and another does not keep, each by a name that stays the same."""
    for area, check in AREAS.items():
        for what in check(then[area], now[area]):
            yield f"{area}: {what}"


def _commands(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in _gone(then, now):
        yield f"fusery {name} is gone"
    for name in then.keys() & now.keys():
        before, after = then[name]["parameters"], now[name]["parameters"]
        for each in _gone(before, after):
            yield f"fusery {name} {each} is gone"
        for each in after.keys() - before.keys():
            if after[each]["required"]:
                yield f"fusery {name} {each} is required, and was not there"
        for each in before.keys() & after.keys():
            for problem in _parameter(before[each], after[each]):
                yield f"fusery {name} {each} {problem}"


def _parameter(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if now["required"] and not then["required"]:
        yield "is required now"
    if then["many"] and not now["many"]:
        yield "may be given once only"
    if then.get("takes a value") != now.get("takes a value"):
        yield "takes a value, or takes none any more"
    if "choices" in now and (missing := {*then.get("choices", ())} - {*now["choices"]}):
        yield f"does not take {', '.join(sorted(missing))} any more"
    if "choices" in now and "choices" not in then:
        yield "does not take everything any more"
    # Libraries have several ways to say that a flag is not set.
    if "default" in then and (now.get("default") or False) != (then["default"] or False):
        yield f"is {now.get('default')!r} by default, and was {then['default']!r}"


def _same(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in _gone(then, now):
        yield f"{name} is gone"
    for name in then.keys() & now.keys():
        if then[name] != now[name]:
            yield f"{name} is {now[name]!r}, and was {then[name]!r}"


def _documents(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in _gone(then, now):
        yield f"the document of {name} is gone"
    for name in then.keys() & now.keys():
        yield from _printed(then[name], now[name], f"{name}:")


def _printed(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield what readers of a document cannot rely on any more."""
    for kind in now["types"]:
        if (
            kind not in then["types"]
            and "any" not in then["types"]
            and (kind, "number") != ("integer", *then["types"])
        ):
            yield f"{where} may be {kind}"
    for key in _gone(then.get("keys", {}), now.get("keys", {})):
        yield f"{where} {key} is gone"
    for key in {*then.get("always", ())} - {*now.get("always", ())}:
        if key in now.get("keys", {}):
            yield f"{where} {key} is not always there"
    for key, each in then.get("keys", {}).items():
        if key in now.get("keys", {}):
            yield from _printed(each, now["keys"][key], f"{where} {key}")
    for part in ("items", "additionalProperties"):
        if part in then and part in now:
            yield from _printed(then[part], now[part], f"{where} {part}")


def _taken(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield what is refused now of what a request could say."""
    if missing := {*then["types"]} - {*now["types"]} - ({"any"} if "any" in now["types"] else set()):
        yield f"{where} may not be {', '.join(sorted(missing))} any more"
    for key in _gone(then.get("keys", {}), now.get("keys", {})):
        yield f"{where} {key} is gone"
    for key in {*now.get("always", ())} - {*then.get("always", ())}:
        yield f"{where} {key} is required now"
    for key, each in then.get("keys", {}).items():
        if key in now.get("keys", {}):
            yield from _taken(each, now["keys"][key], f"{where} {key}")


def _routes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in _gone(then, now):
        yield f"{name} is gone"
    for name in then.keys() & now.keys():
        before, after = then[name], now[name]
        if _rank(after["role"]) > _rank(before["role"]):
            yield f"{name} needs the role of {after['role']}, and needed {before['role'] or 'none'}"
        for each in _gone(before["parameters"], after["parameters"]):
            yield f"{name} {each} is gone"
        for each, required in after["parameters"].items():
            if required and not before["parameters"].get(each):
                yield f"{name} {each} is required now"
        for side, check in (("takes", _taken), ("returns", _printed)):
            for kind in _gone(before[side], after[side]):
                yield f"{name} {side} no {kind} any more"
            for kind in before[side].keys() & after[side].keys():
                yield from check(before[side][kind], after[side][kind], f"{name} {side}")


def _rank(role: str | None) -> int:
    return ROLES.index(role) if role else -1


def _python(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in _gone(then, now):
        yield f"{name} is gone"
    for name in then.keys() & now.keys():
        before, after = then[name], now[name]
        members = {*after["attributes"], *after["called"]}
        for each in _gone(before["attributes"], members):
            yield f"{name}.{each} is gone"
        for each in _gone(before.get("is a", ()), after.get("is a", ())):
            yield f"{name} is no {each} any more"
        for each in _gone(before["called"], after["called"]):
            yield f"{name}.{each}() is gone"
        for each in before["called"].keys() & after["called"].keys():
            for problem in _call(before["called"][each], after["called"][each]):
                yield f"{name}.{each}() {problem}"


def _call(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for each in _gone(then["names"], now["names"]):
        yield f"takes no {each} any more"
    for each, facts in now["names"].items():
        if facts["required"] and not then["names"].get(each, {}).get("required"):
            yield f"requires {each}"
    if now["positions"][: len(then["positions"])] != then["positions"]:
        yield f"takes {', '.join(now['positions'])} by position, and took {', '.join(then['positions'])}"


def _listed(then: Iterable[str], now: Iterable[str]) -> Iterator[str]:
    for name in _gone(then, now):
        yield f"{name} is gone"


def _gone(then: Iterable[str], now: Iterable[str]) -> list[str]:
    return sorted({*then} - {*now})


AREAS = {
    "commands": _commands,
    "exit codes": _same,
    "JSON": _documents,
    "HTTP API": _routes,
    "Python API": _python,
    "plugins": _python,
    "settings": _same,
    "findings": _listed,
    "log actions": _listed,
}
"""Parts of `surface` to what checks them; what lies on disks is read instead."""
