"""How much of the server a tenant may use at once: decided before a byte of its request is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .document import Limits, Tenant
from .errors import Refusal
from .fairness import Shares
from .metrics import Metrics

BODIES_BYTES = 32 << 20
"""Bytes of requests that are being read and made ready, of all tenants together."""


class Admission:
    """Counts answers in progress or waiting, and bytes of requests, by tenant."""

    def __init__(self, limits: Callable[[], Limits], metrics: Metrics) -> None:
        """Prepare.

        Args:
            limits: those of the document as it is now.
            metrics: are told.
        """
        self._limits, self._metrics = limits, metrics
        self._answers, self._bytes = Shares(), Shares()

    @property
    def total(self) -> int:
        """Answers in progress or waiting."""
        return self._answers.total

    def owners(self) -> list[str]:
        """Return the tenants with requests in progress."""
        return self._answers.owners()

    @contextmanager
    def answers(self, tenant: Tenant | None, count: int, *, beside: int = 0) -> Iterator[None]:
        """Count answers while the block runs.

        Args:
            tenant: whose they are.
            count: how many.
            beside: those of the same request that are counted already.

        Raises:
            Refusal: the tenant has too many already, or all together and it has its share.
        """
        owner, own = (tenant.name, tenant.concurrent) if tenant else ("", None)
        room = self._limits().waiting
        most = min(room, own or room)
        held = self._answers.of(owner)
        if count + beside > most:
            raise Refusal(400, f"this key can have up to {most} answers at once", param="n")
        if count and (held + count > most or not self._answers.has_room(owner, room, count)):
            raise _come_back()
        self._answers.take(owner, count)
        self._metrics.active.labels(owner).set(held + count)
        try:
            yield
        finally:
            self._answers.give(owner, count)
            self._metrics.active.labels(owner).set(self._answers.of(owner))

    @contextmanager
    def bytes(self, owner: str, count: int) -> Iterator[None]:
        """Count the bytes of a request's body while the block runs.

        Raises:
            Refusal: there are too many of this tenant's already.
        """
        if not self._bytes.has_room(owner, max(BODIES_BYTES, count), count):
            raise _come_back()
        self._bytes.take(owner, count)
        try:
            yield
        finally:
            self._bytes.give(owner, count)


def _come_back() -> Refusal:
    return Refusal(
        429,
        "too many requests at once; try again in a moment",
        code="rate_limit_exceeded",
        headers={"Retry-After": "1"},
    )
