"""Who asks: a name, a role, and what its forms are signed with."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from fusery.registry.access.roles import allows
from fusery.registry.errors import RegistryError
from fusery.registry.records.token import Role


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who asks.

    Attributes:
        name: under which acts are recorded; empty where nobody is known.
        role: what may be asked; None for nothing.
        authenticated: the name was proven, by a token or by a proxy that is believed.
        key: what the visitor's forms are signed with; empty where a form cannot be sent.
        is_program: a token came with the request itself, which no page of another site can have a browser do.
        signed_in: the browser keeps a token, and can forget it.
    """

    name: str = ""
    role: Role | None = None
    authenticated: bool = False
    key: str = ""
    is_program: bool = False
    signed_in: bool = False

    def may(self, needed: Role) -> bool:
        """Tell whether the role is enough."""
        return self.role is not None and allows(self.role, needed)

    @property
    def form_token(self) -> str:
        """What each form of this visitor carries, so that no page of another site can send one."""
        return hmac.digest(self.key.encode(), b"fusery form", hashlib.sha256).hex() if self.key else ""

    def sent(self, form_token: str) -> bool:
        """Tell whether a form with such a token is this visitor's own."""
        mine = self.form_token
        return bool(mine) and hmac.compare_digest(mine.encode(), form_token.encode())


NOBODY = Visitor()


class Door(Protocol):
    """How a server knows who asks."""

    signs_in: bool
    """Whether there is a page to sign in on."""

    def asker(self, request: Request) -> str:
        """Return what tells who asks from others, at no cost and before it is known who they are."""
        ...

    def visitor(self, request: Request) -> Visitor:
        """Return who asks; `NOBODY` where nothing says so.

        Raises:
            NotSignedInError: what says so is not valid.
        """
        ...


class NotSignedInError(RegistryError):
    """Who asks is not known, and has to be."""

    code = "not_signed_in"


class RefusedTokenError(NotSignedInError):
    """A token is nobody's, or not valid any more.

    Attributes:
        why: for the log of the server.
    """

    def __init__(self, message: str, *, hint: str | None, why: str) -> None:
        super().__init__(message, hint=hint)
        self.why = why


class FormError(RegistryError):
    """A form was not sent from a page of this server that its sender had open."""

    code = "form_not_ours"


class TooOftenError(RegistryError):
    """Somebody asks too often in too short a time."""

    code = "too_often"


class LengthError(RegistryError):
    """A request does not say how long it is, and has to."""

    code = "length_needed"


class HostError(RegistryError):
    """A request is for another host, or made by a page of another one."""

    code = "host_not_ours"


class TooSlowError(RegistryError):
    """A request did not come as a whole in the time that there is for it."""

    code = "too_slow"


class TooMuchError(RegistryError):
    """A request is longer than any that this server knows what to do with."""

    code = "too_much"


def visitor_of(request: Request) -> Visitor:
    """Return who asks, once the route's guard has looked."""
    found = getattr(request.state, "visitor", NOBODY)
    assert isinstance(found, Visitor)
    return found


def program_of(request: Request) -> Visitor:
    """Return the program that asks.

    Raises:
        FormError: it may be a page of another site, since a browser sends its cookie along with whatever a page has it send.
    """
    visitor = visitor_of(request)
    if not visitor.is_program:
        raise FormError("acts need a token in the request itself", hint="Authorization: Bearer TOKEN")
    return visitor
