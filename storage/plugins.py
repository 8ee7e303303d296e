"""Plugins of other packages, by entry points; they run with the user's rights, and their mistakes are called their own."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast, get_args

from .errors import FuseryError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


Group = Literal["fusery.targets", "fusery.rules", "fusery.sources", "fusery.backends"]
"""The groups of entry points that are looked at (docs/guides/plugins.md)."""

GROUPS: tuple[Group, ...] = get_args(Group)

_KINDS: dict[Group, str] = {
    "fusery.targets": "target",
    "fusery.rules": "rule",
    "fusery.sources": "source of runs",
    "fusery.backends": "backend",
}
_NAME = re.compile(r"[a-z][a-z0-9+._-]{0,31}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""Errors that Python raises for invalid metadata."""


class PluginError(FuseryError):
    """A plugin cannot be imported, has the wrong type for its group, failed, or has the name of another plugin."""

    code = "plugin_failed"


@dataclass(frozen=True, slots=True, order=True)
class Plugin:
    """An entry point of an installed package: `value` is its `module:attribute`."""

    group: Group
    name: str
    package: str
    version: str
    value: str

    def __str__(self) -> str:
        """Return the distribution and its version, as records name them."""
        return f"{self.package} {self.version}"

    @property
    def kind(self) -> str:
        """The kind of plugin, in words."""
        return _KINDS[self.group]

    def wrong(self, what: str) -> PluginError:
        """Return the error for a plugin that is not as it has to be."""
        hint = f"tell those who make {self.package}, or take it away: pip uninstall {self.package}"
        return PluginError(f"the {self.kind} {self.name} of {self} {what}", hint=hint)


def plugins(group: Group | None = None) -> list[Plugin]:
    """Return what is installed of a group, or of all, by name; nothing of it is imported."""
    installed = _installed(tuple(sys.path))
    return [plugin for plugin in installed if group is None or plugin.group == group]


def find_plugin(group: Group, name: str) -> Plugin | None:
    """Return the plugin of a name; None if it is not installed."""
    matching_plugins = [plugin for plugin in plugins(group) if plugin.name == name]
    if len(matching_plugins) > 1:
        raise taken_twice(matching_plugins)
    return matching_plugins[0] if matching_plugins else None


def taken_twice(conflicting_plugins: list[Plugin]) -> PluginError:
    """Return the error for plugins of one name."""
    packages = " and ".join(dict.fromkeys(map(str, conflicting_plugins)))
    if packages == str(conflicting_plugins[0]):
        return conflicting_plugins[0].wrong("is more than once in its entry points")
    message = f"the {conflicting_plugins[0].kind} {conflicting_plugins[0].name} is brought by {packages}"
    return PluginError(message, hint=f"pip uninstall {conflicting_plugins[-1].package}")


def load_plugin(plugin: Plugin, *, own: Collection[str] = ()) -> Any:
    """Import a plugin, and return what its entry point names."""
    from importlib.metadata import EntryPoint

    if plugin.name in own:
        raise plugin.wrong("has the name of one of fusery's own")
    if not (_SCHEME if plugin.group == "fusery.backends" else _NAME).fullmatch(plugin.name):
        raise plugin.wrong("has an invalid name (small letters, digits, + . - and, unless a scheme, _)")
    with blaming(plugin, "cannot be imported"):
        return EntryPoint(plugin.name, plugin.value, plugin.group).load()


@contextmanager
def blaming(
    plugin: Plugin | None, what: str = "failed", *, besides: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Turn what a plugin raises into a PluginError that names it, unless it is a FuseryError; send prints to stderr."""
    if plugin is None:
        yield
        return
    try:
        with printing_to_stderr():
            yield
    except BaseException as error:  # of some libraries, not all are an Exception
        if isinstance(error, (FuseryError, KeyboardInterrupt, *besides)):
            raise
        from .secrets import redact  # it costs a short command a tenth of its time

        message = ""
        with suppress(Exception):  # an error of a plugin may have no text
            message = redact(" ".join(str(error).split()))[:200]
        raise plugin.wrong(f"{what}: {type(error).__name__}{f': {message}' if message else ''}") from error


@cache
def _installed(path: tuple[str, ...]) -> list[Plugin]:
    """Return all plugins on a path of modules; to look through the packages of an environment takes some milliseconds."""
    from importlib.metadata import entry_points

    try:
        installed = entry_points()
        return sorted(_plugin(group, entry) for group in GROUPS for entry in installed.select(group=group))
    except _UNREADABLE as error:
        problem = f"cannot list the installed packages: {type(error).__name__}"
        raise PluginError(problem, hint="pip check") from error


def _plugin(group: Group, entry: EntryPoint) -> Plugin:
    package = entry.dist
    assert package is not None
    try:
        metadata: Any = package.metadata or {}
    except FileNotFoundError:  # it was half removed
        metadata = {}
    name, version = metadata.get("Name") or entry.value.partition(":")[0], metadata.get("Version") or "?"
    return Plugin(group, entry.name, name, version, entry.value)


_lock = threading.Lock()
_blocks = 0
"""How many there are in all threads."""
_before: TextIO | None = None
"""What stdout was when the first of them began."""


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Let what is printed in the block go to stderr, and restore stdout whatever a plugin put in its place."""
    global _before, _blocks
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _before, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                sys.stdout, _before = cast("TextIO", _before), None
