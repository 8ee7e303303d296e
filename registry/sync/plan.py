"""What has to be done for the adapters that are wanted to be where they are wanted; a pure function of what is known.

Three things are known: what is wanted, what stands there, and what is on record as brought there by a sync before.  Only
what was brought is ever taken away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Act = Literal["load", "replace", "unload", "record", "end", "leave", "keep", "blocked", "withheld"]
"""What is done about an adapter.

`load`: it is wanted and not there.  `replace`: it was brought, and is not what it was.  `unload`: it was brought, and is not
wanted any more.  `record`: it is wanted, there and was brought, which only the record has yet to say.  `end`: it is not there
any more, which only the record has yet to say.  `leave`: it is there, not wanted, and was not brought.  `keep`: it is wanted and
there.  `blocked`: something has its name that is not what was brought, or that was not brought and is another one or yanked.
`withheld`: it is wanted, and yanked.
"""

CHANGES: frozenset[Act] = frozenset(("load", "replace", "unload", "record", "end"))
"""Those after which something is otherwise than before."""

UNMET: frozenset[Act] = frozenset(("blocked", "withheld"))
"""Those that say of a wish that it cannot be met."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An adapter that is there.

    Attributes:
        digest: that it is registered under, where the place tells or its files prove it; None where nobody knows.
        brought: it may be what a sync brought; False where it lies elsewhere than a sync puts things, or is something else.
        ours: where it lies proves that a sync from this registry brought it.
    """

    digest: str | None
    brought: bool
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one adapter.

    Attributes:
        act: what.
        name: of the adapter.
        digest: of the adapter; None where it is not in this registry.
    """

    act: Act
    name: str
    digest: str | None


def plan(
    wanted: Mapping[str, str],
    standing: Mapping[str, Standing],
    brought: Mapping[str, str],
    yanked: Collection[str] = (),
) -> tuple[Step, ...]:
    """Return what has to be done, adapters that come before those that go.

    Args:
        wanted: names of adapters, each with its digest.
        standing: what is there.
        brought: names of what is on record as brought there, each with its digest.
        yanked: names of adapters that should be nowhere.
    """
    steps = [Step(_coming(name, digest, standing, brought), name, digest) for name, digest in wanted.items()]
    for name in dict.fromkeys([*brought, *standing]):
        if name not in wanted:
            there = standing.get(name)
            digest = brought.get(name) or (there.digest if there else None)
            steps.append(Step(_going(name, there, brought, yanked), name, digest))
    return tuple(steps)


def _coming(name: str, digest: str, standing: Mapping[str, Standing], brought: Mapping[str, str]) -> Act:
    there = standing.get(name)
    if there is None:
        return "load"
    if there.digest == digest:
        return "record" if there.ours and name not in brought else "keep"
    if there.ours or (name in brought and _is_what_was_brought(there, brought[name])):
        return "replace"
    return "blocked"


def _going(name: str, there: Standing | None, brought: Mapping[str, str], yanked: Collection[str]) -> Act:
    if there is None:
        return "end"
    if there.ours:
        return "unload"
    if name in brought:
        # Whatever has the name there now may be what was brought, and where nobody can tell it is not touched.
        return "unload" if _is_what_was_brought(there, brought[name]) else "blocked"
    return "blocked" if name in yanked else "leave"


def _is_what_was_brought(there: Standing, digest: str) -> bool:
    return there.brought and there.digest in (None, digest)
