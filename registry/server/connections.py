"""Connections with limits of time and number, which uvicorn's have not: who sends no request keeps nobody from sending one."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request, from the connection's beginning or the end of the answer before."""

STALL_SECONDS = 30.0
"""For a client that does not read what it asked for."""

UNREAD_BYTES = 64 << 10
"""Of the body of a request that was refused: of more, what still comes is thrown away and the connection then closed."""

AHEAD_BYTES = 128 << 10
"""Of requests that are sent before the one before them is answered; who sends more is hung up on."""

IDLE_CONNECTIONS = 256
"""Connections without a request; of more, the one that waits longest is closed."""

Idle = dict["Connection", None]


class Connection(H11Protocol):
    """uvicorn's connection, closed when nothing comes of it."""

    def __init__(self, idle: Idle, **options: Any) -> None:
        """Make one.

        Args:
            idle: the server's connections without a request, in the order of time.
            options: uvicorn's.
        """
        super().__init__(**options)
        self._idle = idle
        self._begun: Any = None  # the request before or at present
        self._unread: int | None = None  # bytes that are still to be thrown away
        self._ahead = bytearray()  # of the next requests
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when the head of a request is there."""
        if self._unread is not None:
            self._unread -= len(data)
            if self._unread <= 0:
                self.transport.close()
            return
        if self._is_answering():
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        self._note_request()
        if self._is_answering():
            # uvicorn does not read while there is more than the request, and would not see that the client goes.
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Wait for the next request; what may still come of the last one's body counts as waiting.

        A client that is still sending would not see the answer if the connection were closed at once.
        """
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            headers = dict(self.headers)
            length = None if b"transfer-encoding" in headers else headers.get(b"content-length")
            unread = UNREAD_BYTES + 1 if length is None else int(length) - len(self.cycle.body)
            self._unread = unread if unread > UNREAD_BYTES else None
        if not self._note_request() and not self.transport.is_closing():
            self._await_head()
        if self._ahead and not self.transport.is_closing():
            ahead = bytes(self._ahead)
            self._ahead.clear()
            self.data_received(ahead)
        elif self._is_answering():  # a request that came with the one before, and perhaps with another
            self.flow.resume_reading()

    def _is_answering(self) -> bool:
        """Tell whether a request is there as a whole and its answer is not."""
        return self.conn.their_state is h11.DONE and not self.cycle.response_complete

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _await_head(self) -> None:
        self._forget()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        self._idle[self] = None
        if len(self._idle) > IDLE_CONNECTIONS:
            next(iter(self._idle)).drop()

    def _note_request(self) -> bool:
        if self.cycle is self._begun:
            return False
        self._begun = self.cycle
        self._forget()
        return True

    def _forget(self) -> None:
        self._idle.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def drop(self) -> None:
        """Close it at once."""
        self._forget()
        self.transport.abort()
