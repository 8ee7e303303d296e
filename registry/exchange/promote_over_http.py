"""Promoting on a server: it judges by what its own registry has on record, and says what came of each rule."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from ..errors import BadInputError, ServerRefusedError
from ..releases.promote import Promotion
from .http_calls import RefusedError, turned
from .over_http import ServerPlace
from .registry_server import RegistryServer


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
    how = {"dry_run": True} if dry_run else {}
    with place.asked() as calls:
        server = RegistryServer(calls)
        refusal: RefusedError | None = None
        try:
            told = server.write("aliases/promote", reference=reference, alias=alias, reason=reason, **how)
        except RefusedError as refused:
            # Where its rules say no, the answer is the same record.
            if not refused.answer:
                raise
            refusal, told = refused, refused.answer
        try:
            promotion = TypeAdapter(Promotion).validate_json(told, strict=True)
        except ValidationError as error:
            raise refusal or ServerRefusedError(
                f"{calls.address.url} answers what no server of this version does",
                hint="is that its address?",
            ) from error
    rules = (replace(rule, hint=turned(rule.hint) if rule.hint else None) for rule in promotion.rules)
    return replace(promotion, rules=tuple(rules))
