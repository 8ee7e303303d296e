"""Running the pages: on this machine alone, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.server.errors import ServingError
from fusery.registry.server.listening import bind

if TYPE_CHECKING:
    import uvicorn

DRAIN_SECONDS = 5
"""Time to finish what is being answered."""


def serve_pages(
    registry: Registry,
    *,
    port: int = 0,
    hosts: Sequence[str] = (),
    ready: Callable[[str], None],
) -> int:
    """Serve the pages of a registry on 127.0.0.1 until a signal comes, and return the exit code.

    Args:
        registry: what the pages are of.
        port: 0 for a free one.
        hosts: names that requests may be for, besides addresses and localhost.
        ready: told the address when pages can be asked for.

    Raises:
        MissingExtraError: what serves pages is not installed.
        BadInputError: somebody else has the port.
    """
    try:
        import uvicorn

        from .app import create_app
    except ModuleNotFoundError as error:
        raise MissingExtraError("the registry in a browser", "web") from error
    # What cannot be read is an error now, and not on the first page.
    registry.upkeep.log(limit=1)
    try:
        listener = bind("127.0.0.1", port)
    except ServingError as error:
        raise BadInputError(str(error), hint="--port 0 takes a free one") from error
    with listener:
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(registry, hosts=hosts),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
            ws="none",
        )
        # What it says of broken requests and of those it gives up is of no use to who looks at pages.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server = _server(config, lambda: ready(address))
        with _ended_by_signals():
            server.run(sockets=[listener])
    _end_what_is_left()
    return 0


def _end_what_is_left() -> None:
    """End the process where a page is still being made: Python would wait for its thread, and pages only read."""
    end = time.monotonic() + 1
    while any(_at_work()):
        if time.monotonic() > end:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        time.sleep(0.02)


def _at_work() -> Iterator[threading.Thread]:
    return (each for each in threading.enumerate() if each.name.startswith("AnyIO worker"))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Take a signal for the end that it asks for: uvicorn ends in good order, and then raises it once more."""
    wanted = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _server(config: uvicorn.Config, ready: Callable[[], None]) -> uvicorn.Server:
    import uvicorn
    from uvicorn.server import HANDLED_SIGNALS

    ignored = {number for number in HANDLED_SIGNALS if signal.getsignal(number) is signal.SIG_IGN}

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

        def handle_exit(self, sig: int, frame: Any) -> None:
            # uvicorn sets its handler also for what this process was started to ignore.
            if sig not in ignored:
                super().handle_exit(sig, frame)

    return Server(config)
