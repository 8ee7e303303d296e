"""A request while it is being answered: it ends early when its client goes or its key is taken back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from .errors import Refusal
from .keys import Access, Keys

Receive = Callable[[], Awaitable[Any]]

GRACE_SECONDS = 0.5
"""A file of keys that is being rewritten is empty for a moment: what is being answered is not ended for that."""


class ClientGoneError(Exception):
    """Nobody is there to read the answer."""


class Call:
    """One request, within `with`, in the task that answers it: `end` ends the block from outside.

    Attributes:
        access: what its key opens.
        model: the public name that it asks for, once that is known.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self.model: str | None = None
        self._why: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._objected: float | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        return self

    def end(self, why: Exception) -> None:
        """Leave the block with an exception, whatever it waits for."""
        if self._why is None:
            self._why = why
            self._task.cancel()

    def watch(self, receive: Receive) -> None:
        """End it when the client goes; to be called when its request is there in full."""
        self._watch = asyncio.create_task(self._wait(receive))

    def check(self, keys: Keys) -> None:
        """End it when its key has been no good for a moment."""
        objection = keys.objection(self.access, self.model)
        if objection is None:
            self._objected = None
        elif self._objected is None:
            self._objected = time.monotonic()
        elif time.monotonic() - self._objected >= GRACE_SECONDS:
            self.end(objection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        # As asyncio.timeout does it: only a cancellation of our own becomes the reason.
        if self._why is None or self._task.uncancel() > self._cancelling:
            return
        if isinstance(error, asyncio.CancelledError):
            raise self._why from None

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGoneError())


class Calls:
    """All requests that are being answered."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._calls: set[Call] = set()

    def begin(self, access: Access) -> Call:
        """Return a new one, which counts until `over`."""
        call = Call(access)
        self._calls.add(call)
        return call

    def over(self, call: Call) -> None:
        """Count it no more."""
        self._calls.discard(call)

    def check(self) -> None:
        """End those whose keys are no good any more."""
        for call in list(self._calls):
            call.check(self._keys)

    def end(self, why: Refusal) -> None:
        """End all of them."""
        for call in list(self._calls):
            call.end(why)
