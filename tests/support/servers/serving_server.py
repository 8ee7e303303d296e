"""A server of adapters in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from fusery.registry.server.document import read_document
from fusery.registry.server.keys import Keys
from fusery.registry.server.listening import bind, http_server
from fusery.registry.server.service import Service


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    root: str
    service: Service
    document: Path
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def client(self, key: str = "none") -> openai.OpenAI:
        """Return the official client with a key; it is closed when the server ends."""
        if key not in self.clients:
            self.clients[key] = openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60)
        return self.clients[key]


@contextmanager
def served(folder: Path, keys: Keys | None = None, **options: Any) -> Iterator[Served]:
    """Serve the `serving.json` of a folder until the block ends, and drain."""
    document = folder / "serving.json"
    service = Service(read_document(document), folder, keys or Keys.of_document(document))
    service.start()
    listener, ready, urls = bind("127.0.0.1", 0), threading.Event(), []
    clients: dict[str, openai.OpenAI] = {}

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    server = http_server(service, document, listener, outcome=[0], drain=20, ready=tell, **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(60)
        yield Served(f"{urls[0]}/v1", urls[0], service, document, clients)
    finally:
        server.should_exit = True
        thread.join()
        service.stop()
        for client in clients.values():  # what drains is read to its end
            client.close()
