"""Starting and ending: `python server.py` of a bundle, and `fusery serve`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .document import read_document
from .errors import ServingError

if TYPE_CHECKING:
    import uvicorn

    from .service import Service

LOG = logging.getLogger(__name__)

DRAIN_SECONDS = 25
"""Time to finish what is being answered; Kubernetes kills after 30 s, `docker stop` after 10 s unless told (-t)."""

Ready = Callable[[str], None]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal came before there was anything to drain."""


def main(bundle: Path, arguments: Sequence[str] | None = None) -> int:
    """Serve a bundle until SIGTERM or Ctrl-C, or ask a running server for its health.

    Args:
        bundle: the folder with `serving.json`.
        arguments: of the command line; None for the process's own.

    Returns:
        0 for good, 1 for a bad health or when generation died, 2 for what cannot work.
    """
    options = _parser().parse_args(arguments)
    if options.health:
        return health(options.port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        return serve(bundle / "serving.json", host=options.host, port=options.port, drain=options.drain)
    except ServingError as error:
        sys.stderr.write(f"server.py: {error}\n")
        return 2


def serve(
    document: Path,
    *,
    host: str,
    port: int,
    drain: int = DRAIN_SECONDS,
    loaded: Callable[[], None] = lambda: None,
    ready: Ready | None = None,
) -> int:
    """Serve what a document says until a signal comes; follow the document when it changes.

    Args:
        document: `serving.json`.
        host: address to listen on.
        port: 0 for any.
        drain: seconds to finish what is being answered.
        loaded: called when the base and the adapters are in memory, before anything is answered; may raise.
        ready: told the server's URL once it answers.

    Returns:
        0 after a signal, 1 when generation died.

    Raises:
        ServingError: the document, the base or an adapter is not good, or the address is taken.
    """
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        return _serve(document, host, port, drain, loaded, ready)
    except Stopped:
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(
    document: Path, host: str, port: int, drain: int, loaded: Callable[[], None], ready: Ready | None
) -> int:
    from .service import Service

    found = read_document(document)
    listener = bind(host, port)
    service = Service(found, document.parent)
    service.start()
    outcome = [0]
    server = http_server(service, document, listener, drain=drain, ready=ready, outcome=outcome)

    def end(number: int, frame: Any) -> None:
        server.should_exit = True  # from here on uvicorn drains, and then raises the signal once more

    for number in SIGNALS:
        signal.signal(number, end)
    try:
        loaded()
        server.run(sockets=[listener])
    finally:
        service.stop()
        listener.close()
    return outcome[0]


def http_server(
    service: Service,
    document: Path,
    listener: socket.socket,
    *,
    outcome: list[int],
    drain: int = DRAIN_SECONDS,
    ready: Ready | None = None,
) -> uvicorn.Server:
    """Return uvicorn's server for a service that has been started; its `run` takes the listener.

    Args:
        service: what is served.
        document: the file that is followed.
        listener: a bound socket.
        outcome: gets the exit code when generation dies.
        drain: seconds to finish what is being answered.
        ready: told the server's URL once it answers.
    """
    import uvicorn

    from .app import create_app
    from .reload import Reloader

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
            asyncio.create_task(Reloader(service, document).run()),
            asyncio.create_task(_watch(service, server, outcome)),
            asyncio.create_task(_render_no_more(service, server)),
            asyncio.create_task(announce()),
        ]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service, lifespan),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=drain,
        )
    )
    return server


async def _render_no_more(service: Service, server: uvicorn.Server) -> None:
    """When the server is to end, wait for no chat template: what generates drains, and nothing new begins."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    service.prompts.templates.close()


async def _watch(service: Service, server: uvicorn.Server, outcome: list[int]) -> None:
    """End the server when generation has died: a server that answers nothing has to be started anew."""
    while service.engine.alive:
        await asyncio.sleep(1)
    LOG.critical("generation has died")
    outcome[0] = 1
    server.should_exit = True


def health(port: int) -> int:
    """Return 0 if the server on this machine's port is ready, else 1."""
    # A container may have a proxy set for everything else.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=4) as reply:
            return 0 if json.load(reply)["status"] == "ok" else 1
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def bind(host: str, port: int) -> socket.socket:
    """Take an address, which is done before the model is loaded, since that takes a while.

    Raises:
        ServingError: somebody else has it, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ServingError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped


def _parser() -> argparse.ArgumentParser:
    variables = os.environ
    built = argparse.ArgumentParser(
        prog="server.py",
        description="Serve this bundle's base and adapters with OpenAI's API.",
        allow_abbrev=False,
    )
    built.add_argument("--host", default=variables.get("HOST", "127.0.0.1"), help="address ($HOST)")
    built.add_argument("--port", type=int, default=variables.get("PORT", "8080"), help="port ($PORT)")
    built.add_argument(
        "--drain", type=int, default=DRAIN_SECONDS, help="seconds to finish answers after SIGTERM"
    )
    built.add_argument(
        "--health", action="store_true", help="ask the server on this port for its health, and exit"
    )
    return built
