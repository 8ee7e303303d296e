"""Promoting on a server: it judges by what its own registry has on record, and says what came of each rule."""

from __future__ import annotations

from ..errors import BadInputError
from ..records.release import Promotion
from .over_http import ServerPlace


def promote_on_server(
    reference: str, alias: str, place: ServerPlace, *, reason: str, dry_run: bool = False
) -> Promotion:
    """Let an alias on a server hold an adapter that is there if its rules allow it, and return what came of each rule.

    Args:
        reference: the adapter, as the server's registry calls it.
        alias: `prod`, or `TASK#prod`.
        place: the server.
        reason: why, for its log.
        dry_run: evaluate the rules only.

    Raises:
        BadInputError: there is no reason, or no token.
        UnknownReferenceError: nothing there has that name.
        ServerRefusedError, ServerUnavailableError: the server refused it, or did not answer.
    """
    if not reason.strip():
        raise BadInputError("a server's log says why an alias moved", hint="--reason TEXT")
    arguments = {"reference": reference, "alias": alias, "reason": reason, "dry_run": dry_run}
    with place.open() as server:
        promotion: Promotion = server.ask("aliases/promote", arguments, Promotion, writes=True)
        return promotion
