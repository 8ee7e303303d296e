"""The plugins that are installed, each looked at once: `fusery doctor` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from fusery.storage.errors import FuseryError
from fusery.storage.locate import protocol_of
from fusery.storage.plugins import Group, Plugin, plugins, taken_twice

from ..admission.plugged import rule_of
from ..audit.doctor import Check
from ..bundles import target_of
from ..exchange.import_runs import source_of
from ..webhooks.notifiers import notifier_of

_LOADERS: Mapping[Group, Callable[[Plugin], object]] = {
    "fusery.targets": target_of,
    "fusery.rules": rule_of,
    "fusery.sources": source_of,
    "fusery.backends": protocol_of,
    "fusery.notifiers": notifier_of,
}


def plugin_checks() -> Iterator[Check]:
    """Import every plugin, and yield what is to be said of each: its distribution and version, or what is wrong with it."""
    try:
        found = plugins()
    except FuseryError as error:
        yield Check("plugins", "problem", error.message, error.hint or "")
        return
    for each in found:
        same = [other for other in found if (other.group, other.name) == (each.group, each.name)]
        name = f"plugin.{each.group.removeprefix('fusery.')}.{each.name}"
        try:
            if len(same) > 1:
                raise taken_twice(same)
            _LOADERS[each.group](each)
        except FuseryError as error:
            yield Check(name, "problem", error.message, error.hint or "")
        else:
            yield Check(name, "ok", f"{each}: {each.value}")
