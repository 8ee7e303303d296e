"""The HTTP server around a service: uvicorn's, with our connections and what goes on beside it."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import AddressError, Refusal
from .templates.errors import NoProcess

if TYPE_CHECKING:
    import uvicorn

    from .service import Service

LOG = logging.getLogger(__name__)

DRAIN_SECONDS = 25
"""Time to finish what is being answered; Kubernetes kills after 30 s, `docker stop` after 10 s unless told (-t)."""

CHECK_SECONDS = 0.25
"""Between two looks whether keys are still good, and whether the server is to end."""

RETRY_SECONDS, MOST_RETRY_SECONDS = 0.5, 30.0
"""Until a process for chat templates is tried again after none could be started; twice as long each time, up to the second."""

Ready = Callable[[str], None]


FILES = 4096
"""Open files, of which each connection is one; some systems allow 256 unless asked."""


def bind(host: str, port: int) -> socket.socket:
    """Take an address, which is done before the model is loaded, since that takes a while.

    Raises:
        AddressError: somebody else has it, or there is no such address.
    """
    _allow_files()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise AddressError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # then it has to do with what it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def http_server(
    service: Service,
    document: Path,
    listener: socket.socket,
    *,
    outcome: list[int],
    drain: int = DRAIN_SECONDS,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    adapters_from: Path | None = None,
    ready: Ready | None = None,
) -> uvicorn.Server:
    """Return uvicorn's server for a service that has been started; its `run` takes the listener.

    Args:
        service: what is served.
        document: the file that is followed.
        listener: a bound socket.
        outcome: gets the exit code when generation dies.
        drain: seconds to finish what is being answered.
        hosts: names that requests may be for, as `HostCheck` has it.
        origins: web pages that may ask, as `HostCheck` has it.
        adapters_from: below which requests may have adapters loaded; None for nowhere.
        ready: told the server's URL once it answers.
    """
    import uvicorn
    from uvicorn.server import HANDLED_SIGNALS

    from .app import create_app
    from .connections import Connection
    from .reload import Reloader

    reloader = Reloader(service, document)
    loading = None
    if adapters_from is not None:
        from .loading import add_loading

        loading = partial(add_loading, keys=service.keys, reloader=reloader, root=adapters_from)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def announce() -> None:
        while not server.started:  # uvicorn listens when the lifespan has begun
            await asyncio.sleep(0.01)
        LOG.info("listening on %s", address)
        if ready is not None:
            ready(address)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None, None]:
        service.listen(asyncio.get_running_loop())
        tasks = [
            asyncio.create_task(reloader.run()),
            asyncio.create_task(_watch(service, server, outcome)),
            asyncio.create_task(_check(service)),
            asyncio.create_task(_end_calls(service, server, drain)),
            asyncio.create_task(_render_no_more(service, server)),
            asyncio.create_task(_render_again(service, server)),
            asyncio.create_task(announce()),
        ]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    ignored = {number for number in HANDLED_SIGNALS if signal.getsignal(number) is signal.SIG_IGN}

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            # uvicorn sets its handler also for what this process was started to ignore.
            if sig not in ignored:
                super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            create_app(service, lifespan, hosts=hosts, origins=origins, loading=loading),
            http=cast("type[asyncio.Protocol]", partial(Connection, {})),  # it is called, and no more
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=drain,
        )
    )
    return server


async def _check(service: Service) -> None:
    """End what is being answered for keys that were taken back."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        service.check()


async def _end_calls(service: Service, server: uvicorn.Server, drain: int) -> None:
    """Tell those whose answers will not be finished, before uvicorn cancels them."""
    while not server.should_exit:
        await asyncio.sleep(CHECK_SECONDS)
    await asyncio.sleep(max(0, drain - 1))
    service.calls.end(Refusal(503, "the server is being stopped"))


async def _render_no_more(service: Service, server: uvicorn.Server) -> None:
    """When the server is to end, wait for no chat template: what generates drains, and nothing new begins."""
    while not server.should_exit:
        await asyncio.sleep(CHECK_SECONDS)
    service.prompts.templates.close()


async def _render_again(service: Service, server: uvicorn.Server) -> None:
    """When no process for chat templates could be started, try again: who looks at `/health` may send no chat until it is good."""
    pause = RETRY_SECONDS
    while not server.should_exit:
        await asyncio.sleep(pause)
        if service.prompts.templates.able:
            pause = RETRY_SECONDS
            continue
        with suppress(NoProcess):
            await service.rendering.do("", service.prompts.templates.start)
        pause = min(2 * pause, MOST_RETRY_SECONDS)


async def _watch(service: Service, server: uvicorn.Server, outcome: list[int]) -> None:
    """End the server when generation has died: a server that answers nothing has to be started anew."""
    while service.engine.alive:
        await asyncio.sleep(1)
    LOG.critical("generation has died")
    outcome[0] = 1
    server.should_exit = True
