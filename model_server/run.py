"""Start and end of `python server.py` in a bundle and of `fusery serve`: signals, uvicorn's server, the service."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..registry.runtime.document import DRAIN_SECONDS, ServerOptions, read_document
from ..registry.runtime.errors import DocumentError, Refusal, ServingError
from ..registry.runtime.http_server import address_of, bind

if TYPE_CHECKING:
    import uvicorn

    from .keys import Keys
    from .service import Service

LOG = logging.getLogger(__name__)

LAST_SECONDS = 5  # after `drain` until the process is killed
CHECK_SECONDS = 0.25  # between two checks of keys, engine and signals
SWITCH_SECONDS = 0.0005  # Python's switch interval: the engine's thread waits for it several times a token

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Ready = Callable[[str], None]


class Stopped(BaseException):
    """A signal came before the server began to listen."""


def main(bundle: Path, arguments: Sequence[str] | None = None) -> int:
    """Serve the `serving.json` of a bundle until SIGTERM or Ctrl-C, or check the health of a running server."""
    parsed = _parser().parse_args(arguments)
    if parsed.health:
        return health(parsed.port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    hosts, folder = parsed.allow_host, parsed.adapters_from
    options = ServerOptions(parsed.host, parsed.port, parsed.drain, parsed.api_keys, hosts, folder)
    try:
        return serve(bundle / "serving.json", options)
    except ServingError as error:
        sys.stderr.write(f"server.py: {error}\n")
        return 2


def serve(
    document: Path,
    options: ServerOptions,
    *,
    loaded: Callable[[], None] = lambda: None,
    ready: Ready | None = None,
    say: Callable[[str], None] = LOG.info,
) -> int:
    """Serve a document; return 0 after a signal, 1 when generation died. `loaded` may raise before it listens, `ready` gets the URL."""
    content, keys = read_document(document), follow_keys(document, options.api_keys)
    listener = bind(options.host, options.port)
    from .service import Service  # imports MLX, which takes seconds: check the document and the port first

    outcome = [0]
    server: uvicorn.Server | None = None
    last = threading.Timer(options.drain + LAST_SECONDS, _leave, [outcome])
    last.daemon = True

    def end(number: int, frame: Any) -> None:
        with suppress(RuntimeError):  # at the second signal
            last.start()
        if server is None:
            raise Stopped
        server.should_exit = True  # uvicorn drains, and raises the signal again

    # A process that a shell starts in the background ignores SIGINT.
    wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in wanted}
    try:
        sys.setswitchinterval(SWITCH_SECONDS)
        service = Service(content, document.parent, keys)
        service.start(say)
        gc.freeze()
        try:
            loaded()
            server = http_server(service, document, listener, options, outcome=outcome, ready=ready)
            server.run(sockets=[listener])
        finally:
            service.stop()
        return outcome[0]
    except Stopped:
        return 0
    finally:
        last.cancel()
        listener.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_keys(document: Path, api_keys: Path | None) -> Keys:
    """Return the keys of a file of tenants, or of the document."""
    from .keys import Keys

    own = Keys(document, document=True)
    if api_keys is None:
        return own
    if own.tenants:
        raise DocumentError(f"{document} and {api_keys} both have tenants: remove those of one")
    return Keys(api_keys)


def _leave(outcome: list[int]) -> NoReturn:
    """Kill the process: a busy thread cannot be ended."""
    LOG.critical("killed: running answers did not end in time")
    logging.shutdown()
    os._exit(outcome[0])


def health(port: int) -> int:
    """Return 0 if the server on this machine's port is ready, else 1."""
    # The container may have a proxy in its environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=4) as reply:
            return 0 if json.load(reply)["status"] == "ok" else 1
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def _parser() -> argparse.ArgumentParser:
    variables = os.environ
    about = "Serve the models of this bundle with OpenAI's API."
    parser = argparse.ArgumentParser(prog="server.py", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--host", default=variables.get("HOST", "127.0.0.1"), help="address ($HOST)")
    add("--port", type=int, default=variables.get("PORT", "8080"), help="port ($PORT)")
    add(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="TOML file of tenants with digests of their keys; without, those in serving.json",
    )
    add(
        "--allow-host",
        action="append",
        metavar="NAME",
        default=[name for name in variables.get("ALLOW_HOST", "").split(",") if name],
        help="accept requests for this host name; * for all; repeatable ($ALLOW_HOST, comma-separated)",
    )
    add(
        "--adapters-from",
        type=Path,
        metavar="FOLDER",
        default=variables.get("ADAPTERS_FROM") or None,
        help="let requests load adapters below this folder, as fusery deploy sync does ($ADAPTERS_FROM)",
    )
    add(
        "--drain",
        type=int,
        default=variables.get("DRAIN", str(DRAIN_SECONDS)),
        help="seconds to finish answers after SIGTERM ($DRAIN)",
    )
    add("--health", action="store_true", help="check the server on this port, and exit")
    return parser


def http_server(
    service: Service,
    document: Path,
    listener: socket.socket,
    options: ServerOptions,
    *,
    outcome: list[int],
    ready: Ready | None = None,
) -> uvicorn.Server:
    """Return uvicorn's server for a service that has been started; its `run` takes the listener."""
    from ..registry.runtime.http_server import HttpServer
    from .app import create_app
    from .loading import Reloader, add_loading

    reloader = Reloader(service, document)
    loading = None
    if options.adapters_from is not None:
        loading = partial(add_loading, keys=service.keys, reloader=reloader, root=options.adapters_from)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None, None]:
        service.listen(asyncio.get_running_loop())
        coroutines = reloader.run(), _supervise(service, server, options.drain, outcome)
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        yield
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                LOG.error("a task of the server ended early", exc_info=result)

    def listening() -> None:
        LOG.info("listening on %s", address_of(listener))
        if ready is not None:
            ready(address_of(listener))

    hosts = [options.host, *options.hosts]
    app = create_app(service, lifespan, hosts=hosts, loading=loading)
    server = HttpServer(app, listening, timeout_graceful_shutdown=options.drain)
    return server


async def _supervise(service: Service, server: uvicorn.Server, drain: int, outcome: list[int]) -> None:
    """End answers of removed keys, the server when the engine has died, and answers that outlast `drain`."""
    ends: float | None = None
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        service.check()
        if not service.engine.alive and not outcome[0]:
            LOG.critical("generation has died")
            outcome[0] = 1
            server.should_exit = True
        if server.should_exit and ends is None:
            # Running answers drain; requests that are being prepared fail.
            service.prompts.templates.close()
            ends = time.monotonic() + max(0, drain - 1)
        if ends is not None and time.monotonic() >= ends:  # before uvicorn cancels them
            for call in list(service.calls):
                call.end(Refusal(503, "the server is being stopped"))
