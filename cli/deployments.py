"""`fusery deploy`: where things run and ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusery.registry.api.aliases import Deployments

from .command import listing, prints
from .session import Session
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.records.release import Deployed, Deployment

_REF = "REF|BUNDLE"


@prints("deploy record", Deployments.record, names="id", without=("anew",), reference=_REF)
def record(session: Session, made: Deployed) -> None:
    """Record that an adapter, fused model or bundle runs at a place.

    BUNDLE is the bundle's path or digest. PLACE is a name of your choice. Use this command if another pipeline deploys.

    Example: fusery deploy record model eu/ranker --note "rollout 7"
    """
    already = "" if made.changed else " already"
    session.print(f"{cell(made.place)} runs {_what(made)}{already}, since {made['at']}.")
    for ended in made.ended:
        session.print(f"  it no longer runs {_what(ended)}")
    session.warn(made)


@prints("deploy end", Deployments.end, names="id", places="PLACE...", reference=f"--ref {_REF}")
def end(session: Session, ended: list[Deployment]) -> None:
    """Record the end of deployments at a place."""
    for each in ended:
        session.print(f"{cell(each.place)} no longer runs {_what(each)}.")
    if not ended:
        session.say("Nothing runs there any more already.")


def _what(deployment: Deployment) -> str:
    return cell(f"{deployment.kind} {deployment.name}")


listing(
    "deploy list",
    Deployments.list,
    "List deployments, now or at a date.",
    "place name withdrawals at:age by ended_at note digest at",
    none="Nothing is on record there. Hint: fusery deploy record REF PLACE",
    cells={"name": _what},
    names="place",
    excludes=("at", "every"),
    without=("limit",),
    reference=f"--ref {_REF}",
)
