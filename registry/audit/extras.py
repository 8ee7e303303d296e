"""The extras of this installation, and whether all that they ask for is here: as its own metadata say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

_REQUIREMENT = re.compile(
    r"\s*(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[^\]]*)\])?[^;]*;?(?P<marker>.*)", re.DOTALL
)
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_PLATFORM = re.compile(r"""sys_platform\s*==\s*["']([^"']+)["']""")


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra.

    Attributes:
        name: as `pip install 'fusery[NAME]'` takes it.
        present: the distributions that it asks for itself and that are here, with their versions.
        missing: those that are not, also what those ask for that are here.
        fits: it is for this platform.
    """

    name: str
    present: tuple[str, ...]
    missing: tuple[str, ...]
    fits: bool


def extras(name: str = "fusery") -> list[Extra]:
    """Return the extras of an installed distribution, in the order of its metadata; none if it is not installed."""
    found = _installed(name)
    return (
        []
        if found is None
        else [_look(found, extra) for extra in found.metadata.get_all("Provides-Extra") or ()]
    )


def _look(found: Distribution, extra: str) -> Extra:
    asked = list(_asked(found, extra))
    names = dict.fromkeys(name for name, _, _ in asked)
    here = {name for name, _, fits in asked if fits}
    present = (
        f"{name} {one.version}"
        for name in names
        if name in here and name != found.name and (one := _installed(name)) is not None
    )
    return Extra(extra, tuple(present), tuple(dict.fromkeys(_missing(found, extra))), set(names) == here)


def _missing(found: Distribution, extra: str) -> Iterator[str]:
    for name, more, fits in _asked(found, extra):
        if not fits:
            continue
        there = _installed(name)
        if there is None:
            yield name
            continue
        for inner in more:
            yield from _missing(there, inner)


def _asked(found: Distribution, extra: str) -> Iterator[tuple[str, list[str], bool]]:
    """Yield what an extra asks for: a distribution, extras of that one, and whether this is meant for this platform."""
    for text in found.requires or ():
        parts = _REQUIREMENT.fullmatch(text)
        if parts is None or (of := _EXTRA.search(parts["marker"])) is None or _plain(of[1]) != _plain(extra):
            continue
        platform = _PLATFORM.search(parts["marker"])
        more = [each.strip() for each in (parts["extras"] or "").split(",") if each.strip()]
        yield parts["name"], more, platform is None or platform[1] == sys.platform


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
