"""What a card says of an adapter that was computed from others and not trained: by which method, and from which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...documents import provenance_part

_DIGITS = 12


def computed_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a label and a value of how it was computed and of each source; nothing of an adapter that was trained.

    Args:
        facts: of an adapter, as bundles have them; they may come from elsewhere.
    """
    computed = provenance_part(facts, "computed")
    if not computed:
        return
    settings = ((name, computed.get(name)) for name in ("density", "seed"))
    how = [f"{name} {value}" for name, value in settings if value is not None]
    yield "computed by", ", ".join([str(computed.get("method")), *how])
    for name, part in sources(facts):
        weight = part.get("weight")
        times = f"{weight:g} x " if isinstance(weight, int | float) and not isinstance(weight, bool) else ""
        yield "computed from", f"{times}{name} ({str(part.get('digest'))[:_DIGITS]})"


def sources(facts: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and facts of each adapter that it was computed from."""
    found = provenance_part(facts, "computed").get("from")
    for part in found if isinstance(found, list) else ():
        if isinstance(part, Mapping):
            yield str(part.get("name") or "not on record"), part
