"""The HTTP side: what answers by itself, what is passed on to mlx-lm's handler, and in which form."""

from __future__ import annotations

import io
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from .checks import Refusal, check_request, known_fields
from .pages import require_json, require_ours

LOG = logging.getLogger(__name__)

MAX_BODY = 4 << 20
"""Bytes of a request."""

BODIES_BYTES = 32 << 20
"""Of all requests that are being read and answered."""

REQUEST_SECONDS = 30.0
"""Time for a client to send its request."""

MOST_WAITING = 256
"""Connections whose request has not come; of more, the one that waits longest is closed."""

POSTS = {"/v1/chat/completions": "messages", "/chat/completions": "messages", "/v1/completions": "prompt"}
"""The paths that mlx-lm answers, with the field that each cannot do without."""

DEFAULT_MODEL = "default_model"
"""mlx-lm's own word for the model it was started with."""


@dataclass(frozen=True, slots=True)
class Served:
    """The model of a bundle.

    Attributes:
        name: what `/v1/models` lists and what a request may name.
        digest: of the model's manifest.
        folder: the model's files.
        context: tokens of prompt and answer together, 2**20 where `config.json` is silent.
        vocabulary: token ids are below it; 1 where `config.json` is silent, which allows no option that depends on it.
    """

    name: str
    digest: str
    folder: Path
    context: int
    vocabulary: int

    @classmethod
    def read(cls, bundle: Path) -> Served:
        """Return what `fusery.json` and `model/config.json` of a bundle's folder say.

        Raises:
            OSError: a file is missing or cannot be read.
            ValueError: a file is not what it should be.
        """
        folder = bundle / "model"
        try:
            record = json.loads((bundle / "fusery.json").read_text(encoding="utf-8"))
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            text = config.get("text_config", config)
            context = int(text.get("max_position_embeddings") or 1 << 20)
            vocabulary = int(text.get("vocab_size") or 1)
            return cls(str(record["name"]), str(record["digest"]), folder, context, vocabulary)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"fusery.json or model/config.json is damaged: {error}") from error


class Templates(Protocol):
    """Renders chat templates within limits; `templates/` beside this file has it."""

    able: bool

    def bind(self, tokenizer: Any, *, context: int) -> bool:
        """Let a tokenizer's `apply_chat_template` render here from now on."""

    def close(self) -> None:
        """End what is being rendered."""


class Server(ThreadingHTTPServer):
    """An HTTP server for one model that ends when the model's generator does.

    Attributes:
        served: the model.
        templates: render its chat template.
        hosts: names that requests may be for, besides addresses and localhost; `*` for all.
        origins: web pages that may ask; `*` for all.
        generator: mlx-lm's `ResponseGenerator`, set once it has been started.
    """

    request_queue_size = 128

    def __init__(
        self,
        host: str,
        port: int,
        handler: type[BaseHTTPRequestHandler],
        served: Served,
        templates: Templates,
        *,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        """Listen at once; nothing is answered before `serve_forever`."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.served, self.templates = served, templates
        self.hosts, self.origins = frozenset(name.lower() for name in (host, *hosts)), frozenset(origins)
        self._waiting: dict[socket.socket, float] = {}  # until when, in the order of time
        self.known = known_fields(served.context, served.vocabulary)
        self.generator: Any = None
        self._active = self._bytes = 0
        self._changed = threading.Condition()
        super().__init__((host, port), handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make a handler as mlx-lm's needs it; the fingerprint in every answer is the model's, not the machine's."""
        handler: Any = self.RequestHandlerClass
        fingerprint = f"fusery-{self.served.digest[:16]}"
        handler(self.generator, request, client_address, self, system_fingerprint=fingerprint)

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name that `http.server` makes: it can hang without a resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection, which has some time to send its request."""
        with self._changed:
            self._waiting[request] = time.monotonic() + REQUEST_SECONDS
            if len(self._waiting) > MOST_WAITING:
                self._hang_up(next(iter(self._waiting)))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection."""
        self.come(request)
        super().shutdown_request(request)

    def come(self, request: Any) -> None:
        """Note that the request of a connection is there."""
        with self._changed:
            self._waiting.pop(request, None)

    def _hang_up(self, request: socket.socket) -> None:
        del self._waiting[request]
        with suppress(OSError):  # the client was faster
            request.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it

    def service_actions(self) -> None:
        """Hang up on who sends no request, and end the server when generation has died: mlx-lm would refuse everybody."""
        with self._changed:
            for request in [each for each, until in self._waiting.items() if until < time.monotonic()]:
                self._hang_up(request)
        if self.generator is not None and not self.generator.is_healthy:
            raise RuntimeError("the model could not be loaded or text generation died; see the log above")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep clients that hang up out of the log."""
        if isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            LOG.debug("%s hung up", client_address)
        else:
            super().handle_error(request, client_address)

    @property
    def state(self) -> str:
        """`ok`, `loading` or `unavailable`."""
        if self.generator is None:
            return "loading"
        if not self.generator.is_healthy or not self.templates.able:
            return "unavailable"
        return "ok" if self.generator.model_provider.model_key is not None else "loading"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request as being answered."""
        with self._changed:
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    @contextmanager
    def room(self, length: int) -> Iterator[None]:
        """Count the bytes of a request's body while the block runs.

        Raises:
            Refusal: there are too many of other requests.
        """
        with self._changed:
            if self._bytes + length > BODIES_BYTES:
                message = "too many requests at once; try again in a moment"
                raise Refusal(429, message, code="rate_limit_exceeded")
            self._bytes += length
        try:
            yield
        finally:
            with self._changed:
                self._bytes -= length

    def drain(self, seconds: float) -> bool:
        """Wait until no request is being answered, for at most some seconds; return whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: self._active == 0, timeout=seconds)


class Gate(BaseHTTPRequestHandler):
    """Goes before mlx-lm's `APIHandler` in a class's bases, and is the only one that reads what clients send."""

    server: Server
    timeout = 60

    def do_GET(self) -> None:
        """Answer `/health`, `/v1/models` and `/v1/models/NAME`."""
        try:
            if self.path != "/health":
                self.require_ours()
        except Refusal as refusal:
            self.refuse(refusal)
            return
        name = self.server.served.name
        entry = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "fusery"}
        if self.path == "/health":
            state = self.server.state
            self.reply(200 if state == "ok" else 503, {"status": state})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [entry]})
        elif self.path == f"/v1/models/{name}":
            self.reply(200, entry)
        else:
            self.refuse(Refusal(404, "no such path"))

    def do_POST(self) -> None:
        """Rebuild the request from what is known and checked, and pass it on."""
        unread = 0
        try:
            unread = length = self.length()
            self.require_ours()
            require_json(self.headers.get("Content-Type"))
            if self.path not in POSTS:
                raise Refusal(404, "no such path")
            with self.server.room(length):
                received, unread = self.received(length), 0
                data = json.dumps(self.checked(document_of(received))).encode()
                self.rfile = io.BufferedReader(io.BytesIO(data))
                self.headers.replace_header("Content-Length", str(len(data)))
                self.answer()
        except Refusal as refusal:
            self.refuse(refusal)
            self.throw_away(unread)
        except RecursionError:
            self.refuse(Refusal(400, "the request is nested too deeply"))

    def answer(self) -> None:
        """Let mlx-lm answer; the end of the server waits for that, and for its refusals too."""
        with self.server.counted():
            try:
                super().do_POST()  # type: ignore[misc]
            except Refusal as refusal:
                self.refuse(refusal)

    def require_ours(self) -> None:
        """Refuse a request that is not for this server, or asked by a page of another origin.

        Raises:
            Refusal: it is.
        """
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        require_ours(host, origin, hosts=self.server.hosts, origins=self.server.origins)

    def length(self) -> int:
        """Return how many bytes the body has, by its head.

        Raises:
            Refusal: that is not given, or too large.
        """
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(411, "the Content-Length header is required")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise Refusal(413, f"the request is larger than {MAX_BODY} bytes")
        return int(length)

    def throw_away(self, length: int) -> None:
        """Read what is still being sent, and keep nothing of it: the client would not see the reply otherwise."""
        while length > 0 and (data := self.rfile.read(min(length, 1 << 16))):
            length -= len(data)

    def received(self, length: int) -> bytes:
        """Return the body.

        Raises:
            ConnectionAbortedError: it does not come to an end.
        """
        data = self.rfile.read(length)
        self.server.come(self.connection)
        if len(data) < length:
            raise ConnectionAbortedError("the client has gone in the middle of its request")
        return data

    def checked(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request as mlx-lm gets it.

        Raises:
            Refusal: it names another model, an adapter or a draft model, lacks its text, or a field is wrong.
        """
        name = self.server.served.name
        if body.get("model") not in (None, name, DEFAULT_MODEL):
            message = f"the model {str(body['model'])[:100]!r} does not exist; this server has {name!r}"
            raise Refusal(404, message, param="model", code="model_not_found")
        for field in ("adapters", "adapter", "draft_model"):
            if body.get(field) is not None:
                raise Refusal(400, f"{field} cannot be chosen: this server has one fused model", param=field)
        needed = POSTS[self.path]
        if body.get(needed) is None:
            raise Refusal(400, f"{needed} is required", param=needed)
        return check_request(body, self.server.known) | {"model": name}

    def _set_completion_headers(self, status_code: int = 200) -> None:
        # mlx-lm calls this where it handles what went wrong before the first token, and says 404 whatever it was.
        if status_code >= 400:
            error = sys.exc_info()[1]
            ours = self.server.state != "ok" or getattr(error, "temporary", False)
            raise Refusal(503 if ours else 400, str(error or "mlx-lm refused the request"))
        super()._set_completion_headers(status_code)  # type: ignore[misc]

    def refuse(self, refusal: Refusal) -> None:
        """Send a refusal as OpenAI's API does."""
        self.reply(refusal.status, refusal.document)

    def reply(self, status: int, document: Mapping[str, Any]) -> None:
        """Send a JSON document."""
        data = json.dumps(document).encode()
        super()._set_completion_headers(status)  # type: ignore[misc]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def document_of(data: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a request's body is.

    Raises:
        Refusal: it is none, or has what is no text.
    """
    try:
        body = json.loads(data.decode())
        # Half a character, as "\ud800", ends the thread that generates when it is encoded there.
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refusal(400, "the request has half a character, which is no text") from error
    except ValueError as error:
        raise Refusal(400, "the request is not JSON in UTF-8") from error
    if not isinstance(body, dict):
        raise Refusal(400, "the request is not a JSON object")
    return body
