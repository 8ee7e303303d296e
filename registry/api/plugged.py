"""The plugins that are installed, each looked at once: `fusery doctor` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from fusery.storage.errors import FuseryError
from fusery.storage.locate import protocol_of
from fusery.storage.plugins import Group, Plugin, plugins, taken_twice
from fusery.storage.progress import SILENT, Reporter

from ..admission.rules import rule_of
from ..bundles import target_of
from ..exchange.import_runs import source_of
from ..upkeep.doctor import Check

_LOADERS: Mapping[Group, Callable[[Plugin], object]] = {
    "fusery.targets": target_of,
    "fusery.rules": rule_of,
    "fusery.sources": source_of,
    "fusery.backends": protocol_of,
}


def plugin_checks(reporter: Reporter = SILENT) -> Iterator[Check]:
    """Import every plugin, and yield what is to be said of each name: its distribution and version, or what is wrong with it."""
    try:
        found = plugins()
    except FuseryError as error:
        yield Check("plugins", "problem", error.message, error.hint or "")
        return
    for (group, name), same in groupby(found, key=lambda each: (each.group, each.name)):
        yield _check(f"plugin.{group.removeprefix('fusery.')}.{name}", list(same), reporter)


def _check(name: str, found: list[Plugin], reporter: Reporter) -> Check:
    try:
        if len(found) > 1:
            raise taken_twice(found)
        [plugin] = found
        reporter.say(f"importing the {plugin.kind} {plugin.name} of {plugin}")
        _LOADERS[plugin.group](plugin)
    except FuseryError as error:
        return Check(name, "problem", error.message, error.hint or "")
    return Check(name, "ok", f"{plugin}: {plugin.value}, imported")
