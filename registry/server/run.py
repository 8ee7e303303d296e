"""Starting and ending: `python server.py` of a bundle, and `fusery serve`."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .document import read_document
from .errors import DocumentError, ServingError
from .heap import keep_little
from .listening import DRAIN_SECONDS, Ready, bind, http_server

if TYPE_CHECKING:
    import uvicorn

    from .keys import Keys
    from .service import Service

LOG = logging.getLogger(__name__)

LAST_SECONDS = 5
"""After the draining: whatever the process is at then, it ends."""

SWITCH_SECONDS = 0.0005
"""Until the thread that writes answers gets its turn when others compute: it asks for it several times a token."""

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
        return serve(
            bundle / "serving.json",
            host=options.host,
            port=options.port,
            drain=options.drain,
            api_keys=options.api_keys,
            hosts=options.allow_host,
            origins=[origin for origin in options.allowed_origins.split(",") if origin],
            adapters_from=options.adapters_from,
        )
    except ServingError as error:
        sys.stderr.write(f"server.py: {error}\n")
        return 2


def serve(
    document: Path,
    *,
    host: str,
    port: int,
    drain: int = DRAIN_SECONDS,
    api_keys: Path | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    adapters_from: Path | None = None,
    loaded: Callable[[], None] = lambda: None,
    ready: Ready | None = None,
    say: Callable[[str], None] = LOG.info,
) -> int:
    """Serve what a document says until a signal comes; follow the document when it changes.

    Args:
        document: `serving.json`.
        host: address to listen on.
        port: 0 for any.
        drain: seconds to finish what is being answered.
        api_keys: TOML file of tenants; None for those of the document.
        hosts: names that requests may be for, besides addresses, localhost and `host`; `*` for all.
        origins: web pages that may ask and read answers; `*` for all.
        adapters_from: below which requests may have adapters loaded; None for nowhere.
        loaded: called when the base and the adapters are in memory, before anything is answered; may raise.
        ready: told the server's URL once it answers.
        say: called with each progress message while the model is loaded.

    Returns:
        0 after a signal, 1 when generation died.

    Raises:
        ServingError: the document, the keys, the base or an adapter is not good, or the address is taken.
    """
    keep_little()
    from .service import Service

    before = {number: signal.signal(number, _stop) for number in _wanted()}
    try:
        found = read_document(document)
        service = Service(found, document.parent, follow_keys(document, api_keys))
        listener = bind(host, port)
        make = partial(
            http_server,
            service,
            document,
            listener,
            drain=drain,
            hosts=[host, *hosts],
            origins=origins,
            adapters_from=adapters_from,
            ready=ready,
        )
        return _serve(service, listener, make, drain, loaded, say)
    except Stopped:
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_keys(document: Path, api_keys: Path | None) -> Keys:
    """Return the keys of a file of tenants, or of the document.

    Raises:
        DocumentError: they are not good, or in both.
    """
    from .keys import Keys

    own = Keys.of_document(document)
    if api_keys is None:
        return own
    if own.tenants:
        raise DocumentError(f"there are tenants in {document} and in {api_keys}: it has to be one of the two")
    return Keys.of_file(api_keys)


def _serve(
    service: Service,
    listener: socket.socket,
    make: Callable[..., uvicorn.Server],
    drain: int,
    loaded: Callable[[], None],
    say: Callable[[str], None],
) -> int:
    outcome = [0]
    last = threading.Timer(drain + LAST_SECONDS, _leave, [outcome])
    last.daemon = True

    def stop(number: int, frame: Any) -> NoReturn:
        _start(last)
        raise Stopped

    def end(number: int, frame: Any) -> None:
        _start(last)
        server.should_exit = True  # from here on uvicorn drains, and then raises the signal once more

    try:
        for number in _wanted():
            signal.signal(number, stop)
        sys.setswitchinterval(SWITCH_SECONDS)
        service.start(say)
        gc.freeze()
        try:
            loaded()
            server = make(outcome=outcome)
            for number in _wanted():
                signal.signal(number, end)
            server.run(sockets=[listener])
        finally:
            service.stop()
    finally:
        last.cancel()
        listener.close()
    return outcome[0]


def _start(last: threading.Timer) -> None:
    with suppress(RuntimeError):  # at the second signal
        last.start()


def _leave(outcome: list[int]) -> NoReturn:
    """End the process whatever it is at: a thread in the middle of something cannot be ended otherwise."""
    LOG.critical("what is in progress does not come to an end: it is given up")
    logging.shutdown()
    os._exit(outcome[0])


def health(port: int) -> int:
    """Return 0 if the server on this machine's port is ready, else 1."""
    # A container may have a proxy set for everything else.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=4) as reply:
            return 0 if json.load(reply)["status"] == "ok" else 1
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def _wanted() -> list[signal.Signals]:
    """Return the signals that end the server: SIGINT is ignored by what a shell has started in the background."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped


def _parser() -> argparse.ArgumentParser:
    variables = os.environ
    built = argparse.ArgumentParser(
        prog="server.py",
        description="Serve what is in this bundle with OpenAI's API.",
        allow_abbrev=False,
    )
    built.add_argument("--host", default=variables.get("HOST", "127.0.0.1"), help="address ($HOST)")
    built.add_argument("--port", type=int, default=variables.get("PORT", "8080"), help="port ($PORT)")
    built.add_argument(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="TOML file of tenants with digests of their keys; without, those in serving.json",
    )
    built.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        default=[name for name in variables.get("ALLOW_HOST", "").split(",") if name],
        help="name that requests may be for, besides addresses and localhost; * for all; may be given again"
        " ($ALLOW_HOST, comma-separated)",
    )
    built.add_argument(
        "--allowed-origins",
        default=variables.get("ALLOWED_ORIGINS", ""),
        help="web pages that may ask and read answers, comma-separated, * for all ($ALLOWED_ORIGINS; default: none)",
    )
    built.add_argument(
        "--adapters-from",
        type=Path,
        metavar="FOLDER",
        default=variables.get("ADAPTERS_FROM") or None,
        help="let requests load adapters that lie below this folder, as fusery sync does ($ADAPTERS_FROM; default: none)",
    )
    built.add_argument(
        "--drain",
        type=int,
        default=variables.get("DRAIN", str(DRAIN_SECONDS)),
        help="seconds to finish answers after SIGTERM ($DRAIN)",
    )
    built.add_argument(
        "--health", action="store_true", help="ask the server on this port for its health, and exit"
    )
    return built
