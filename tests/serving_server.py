"""A server of adapters in a thread of the test's own process.  Import it as `import serving_server`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusery.registry.serving.document import read_document
from fusery.registry.serving.run import bind, http_server
from fusery.registry.serving.service import Service


@dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes:
        url: for OpenAI's clients.
        root: of the server.
        service: what it serves.
        document: the file it follows.
    """

    url: str
    root: str
    service: Service
    document: Path


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serve the `serving.json` of a folder until the block ends, and drain."""
    document = folder / "serving.json"
    service = Service(read_document(document), folder)
    service.start()
    listener, ready, urls = bind("127.0.0.1", 0), threading.Event(), []

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    server = http_server(service, document, listener, outcome=[0], drain=20, ready=tell)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(60)
        yield Served(f"{urls[0]}/v1", urls[0], service, document)
    finally:
        server.should_exit = True
        thread.join()
        service.stop()
