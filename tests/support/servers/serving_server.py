"""A server of adapters in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from fusery.model_server.engine import Engine
from fusery.model_server.keys import Keys
from fusery.model_server.run import http_server
from fusery.model_server.service import Service
from fusery.model_server.writing import Generation, Piece
from fusery.registry.runtime.document import ServerOptions, read_document
from fusery.registry.runtime.http_server import bind


class EngineHost:
    def __init__(self, base: Path, *, width: int = 4, prompt_cache_bytes: int = 0) -> None:
        self.pieces: dict[Generation, list[Piece]] = {}
        self._ended: dict[Generation, threading.Event] = {}
        self.some = threading.Event()
        self.engine = Engine(base, self._post, width=width, prompt_cache_bytes=prompt_cache_bytes)
        self.engine.start()

    def _post(self, pieces: Sequence[tuple[Generation, Piece]]) -> None:
        for job, piece in pieces:
            self.pieces[job].append(piece)
            if piece.finish is not None:
                self._ended[job].set()
        self.some.set()

    def begin(self, job: Generation) -> Generation:
        self.pieces[job], self._ended[job] = [], threading.Event()
        self.engine.submit(job)
        return job

    def has_ended(self, job: Generation) -> bool:
        return self._ended[job].is_set()

    def finish(self, job: Generation) -> str | None:
        assert self._ended[job].wait(120)
        return self.pieces[job][-1].finish

    def text(self, job: Generation) -> str:
        assert self.finish(job) != "error"
        return "".join(piece.text for piece in self.pieces[job])

    def tokens(self, text: str) -> list[int]:
        return list(self.engine.tokenizer.encode(text))


@dataclass(frozen=True)
class Served:
    url: str
    root: str
    service: Service
    document: Path
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def client(self, key: str = "none") -> openai.OpenAI:
        if key not in self.clients:
            self.clients[key] = openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60)
        return self.clients[key]


@contextmanager
def served(folder: Path, keys: Keys | None = None, **options: Any) -> Iterator[Served]:
    """Serve the `serving.json` of a folder until the block ends, and drain."""
    document = folder / "serving.json"
    service = Service(read_document(document), folder, keys or Keys(document, document=True))
    service.start()
    listener, ready, urls = bind("127.0.0.1", 0), threading.Event(), []
    clients: dict[str, openai.OpenAI] = {}

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    chosen = ServerOptions(drain=20, **options)
    server = http_server(service, document, listener, chosen, outcome=[0], ready=tell)
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
