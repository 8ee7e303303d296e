"""What has to be done for the adapters that are wanted to be where they are wanted; a pure function of what is known.

Three things are known: what is wanted, what stands there, and what is on record as brought there by a sync before.  Only
what was brought is ever taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Act = Literal["load", "replace", "unload", "end", "leave", "keep", "blocked", "withheld"]
"""What is done about an adapter.

`load`: it is wanted and not there.  `replace`: it was brought, and is not what it was.  `unload`: it was brought, and is not
wanted any more.  `end`: it was brought and is neither there nor wanted, which only the record has yet to say.  `leave`: it is
there, not wanted, and was not brought.  `keep`: it is wanted and there.  `blocked`: it is wanted, and something else has its name.
`withheld`: it is wanted, and yanked.
"""

CHANGES: frozenset[Act] = frozenset(("load", "replace", "unload", "end"))
"""Those after which something is otherwise than before."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An adapter that is there.

    Attributes:
        digest: that it is registered under, where the place tells or its files prove it; None where nobody knows.
        brought: it may be what a sync brought; False where it lies elsewhere than a sync puts things, or is something else.
    """

    digest: str | None
    brought: bool


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
    wanted: Mapping[str, str], standing: Mapping[str, Standing], brought: Mapping[str, str]
) -> tuple[Step, ...]:
    """Return what has to be done, adapters that come before those that go.

    Args:
        wanted: names of adapters, each with its digest.
        standing: what is there.
        brought: names of what is on record as brought there, each with its digest.
    """
    steps = [Step(_coming(name, digest, standing, brought), name, digest) for name, digest in wanted.items()]
    for name in dict.fromkeys([*brought, *standing]):
        if name not in wanted:
            there, digest = standing.get(name), brought.get(name)
            if digest is None:
                steps.append(Step("leave", name, there.digest if there else None))
            elif there is None or not there.brought or there.digest not in (None, digest):
                # Whatever has the name there now is not what was brought.
                steps.append(Step("end", name, digest))
            else:
                steps.append(Step("unload", name, digest))
    return tuple(steps)


def _coming(name: str, digest: str, standing: Mapping[str, Standing], brought: Mapping[str, str]) -> Act:
    there = standing.get(name)
    if there is None:
        return "load"
    if there.digest == digest:
        return "keep"
    was = name in brought and there.brought and there.digest in (None, brought[name])
    return "replace" if was else "blocked"
