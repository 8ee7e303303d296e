"""Tokens of a server for teams, as `registry.tokens` has them."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import TYPE_CHECKING

from .operation import operation
from .resource import Named, Resource, moment, named, said

if TYPE_CHECKING:
    from ..records.token import Identity, NewToken, OwnIdentity, Role, Token


class Tokens(Resource):
    """Who may ask a server for this registry, until when, and what they may do there."""

    NAME = "tokens"

    @operation("admin", writes=True)
    def create(self, name: str, role: Role, *, expires: datetime | str | None = "90d") -> NewToken:
        """Make a token, and return it with its secret, which is shown this once; None for one that does not expire.

        See `fusery.registry.access.tokens.create`.
        """
        from ..access.tokens import create

        return create(self.workspace, name, role, "never" if expires is None else str(moment(expires)))

    @operation("admin")
    def list(self, *, revoked: bool = False) -> builtins.list[Token]:
        """Return the tokens by name, with `revoked` those that were revoked too."""
        from ..access.tokens import list_tokens

        return list_tokens(self.workspace, revoked=revoked)

    @operation("admin", writes=True)
    def revoke(self, name: Named, *, reason: str = "") -> Token:
        """Let no server take a token any more, and return its record; see `fusery.registry.access.tokens.revoke`."""
        from ..access.tokens import revoke

        return revoke(self.workspace, named(name), reason=said(reason))

    @operation("reader")
    def own(self) -> OwnIdentity:
        """Return the name and role of the token that this registry uses."""
        from ..access.tokens import own

        return own(self.workspace)

    def authenticate(self, secret: str) -> Identity:
        """Return who has a token with this secret; see `fusery.registry.access.tokens.authenticate`."""
        from ..access.tokens import authenticate

        return authenticate(self.workspace, secret)
