"""What a fuse takes, said before it begins: shaped rounding takes some twenty times what `keep` takes, without the compiled half a hundred times."""

from __future__ import annotations

from .plan import Plan
from .work import cost, cost_unshaped

_SECOND = 1e9


def slowly(plan: Plan) -> str | None:
    """Return a sentence for a fuse that takes more than twice what `keep` takes; None for any other."""
    whole, kept = (sum(map(each, plan.steps)) for each in (cost, cost_unshaped))
    if whole <= 2 * kept:
        return None
    seconds = whole / _SECOND
    said = f"some {seconds:.0f} s" if seconds >= 1 else "less than a second"
    return f"rounding by the base's calibration takes {said} of a processor, about {whole / kept:.0f} times what keep takes"
