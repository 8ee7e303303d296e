"""Load and unload adapters by vLLM's routes, if allowed, from below `--adapters-from`, and follow changes of the document."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ..registry.runtime.document import Digest, Name, ServedAdapter, ServingDocument, read_document, reason
from ..registry.runtime.errors import AdapterError, DocumentError, Refusal, ServingError, invalid
from .keys import Keys
from .responses import announced, received
from .schemas import DEFAULT_MODEL, read_object
from .service import ClientGoneError, Service

LOG = logging.getLogger(__name__)

MOST_BYTES = 16 << 10  # of a request's body

B = TypeVar("B", bound="_Body")


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    lora_name: Name

    @field_validator("lora_name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not name.isprintable() or not name.isascii() or name != name.strip() or name == DEFAULT_MODEL:
            raise ValueError("it is no name for an adapter")
        return name


class _Load(_Body):
    """A request to load an adapter."""

    lora_path: str
    load_inplace: bool = False
    digest: Digest | None = None


def add_loading(app: FastAPI, keys: Keys, reloader: Reloader, root: Path) -> None:
    """Add the two routes."""

    def require_allowed(request: Request) -> None:
        if "origin" in request.headers:
            raise Refusal(403, "web pages load no adapters, wherever they are from", code="forbidden")
        tenant = keys.authenticate(request.headers.get("authorization")).tenant
        if tenant is not None and not tenant.loads:
            raise Refusal(403, "this key may not load adapters", code="forbidden")

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        require_allowed(request)
        body = await _body(request, _Load)
        if body.load_inplace:
            raise invalid("load_inplace", "not supported: the adapter of a name never changes")
        try:
            # The copy cannot change between the checks and the loading.
            async with copied(root, body.lora_path) as folder:
                entry = ServedAdapter(name=body.lora_name, folder=str(folder), digest=body.digest)
                await reloader.serve_adapter(entry)
        except (AdapterError, DocumentError) as error:
            raise invalid("lora_name", str(error)) from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        require_allowed(request)
        body = await _body(request, _Body)
        if not await reloader.put_away(body.lora_name):
            why = f"{body.lora_name[:100]!r} was not loaded by a request"
            raise Refusal(404, why, param="lora_name", code="model_not_found")
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def _body(request: Request, kind: type[B]) -> B:
    """Return a request's body."""
    try:
        data = await received(request.receive, announced(request.headers, MOST_BYTES))
    except ClientGoneError as error:
        raise Refusal(400, "the request is incomplete") from error
    try:
        return kind.model_validate(read_object(data))
    except ValidationError as error:
        raise Refusal(400, reason(error)) from error


CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"

MOST_CONFIG, MOST_HEADER, MOST_WEIGHTS = 1 << 20, 64 << 20, 16 << 30  # bytes
MOST_RANK = 4096  # mlx-lm allocates an adapter by its declared rank


@asynccontextmanager
async def copied(root: Path, path: str) -> AsyncIterator[Path]:
    """Yield a temporary folder with copies of an adapter's two files; a refusal does not reveal which files exist."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="fusery-adapter-"))
    try:
        await asyncio.to_thread(_copy, root, path, folder)
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _copy(root: Path, path: str, target: Path) -> None:
    try:
        source = _open_folder(root, path)
    except (OSError, ValueError, RuntimeError) as error:
        message = "there is no such folder where this server may load adapters from"
        raise Refusal(404, message, param="lora_path") from error
    try:
        for name, most in ((CONFIG, MOST_CONFIG), (WEIGHTS, MOST_WEIGHTS)):
            _copy_file(source, name, target / name, most)
        _require_sane(target)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise invalid("lora_path", f"no adapter with {CONFIG} and {WEIGHTS} that can be loaded") from error
    finally:
        os.close(source)


def _open_folder(root: Path, path: str) -> int:
    """Open a folder below another, part by part, without following links."""
    place = root / path  # `path` itself, if it is absolute
    parts = place.relative_to(root if place.is_relative_to(root) else root.resolve()).parts
    if not parts or ".." in parts:
        raise ValueError("not below the folder")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            inner = os.open(part, os.O_DIRECTORY | _CAREFULLY, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


_CAREFULLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # follow no link, wait for no pipe


def _copy_file(folder: int, name: str, target: Path, most: int) -> None:
    with os.fdopen(os.open(name, _CAREFULLY, dir_fd=folder), "rb") as file, target.open("xb") as copy:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ValueError("no regular file, or too long")
        left = status.st_size
        while left and (piece := file.read(min(left, 1 << 20))):
            copy.write(piece)
            left -= len(piece)


def _require_sane(folder: Path) -> None:
    """Refuse an adapter that would need much more memory than its files, such as a rank without factors."""
    config = json.loads((folder / CONFIG).read_bytes())
    rank = config.get("lora_parameters", {}).get("rank", 0)
    if not isinstance(rank, int) or not 0 <= rank <= MOST_RANK:
        raise ValueError("no rank")
    with (folder / WEIGHTS).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError("no header")
        header = json.loads(file.read(length))
    names = {name.rpartition(".")[::2] for name in header if name != "__metadata__"}
    modules = {module for module, _ in names}
    if not modules or any((module, part) not in names for module in modules for part in ("lora_a", "lora_b")):
        raise ValueError("modules without factors")


SECONDS = 1.0  # between two looks at the document
MOST_ADDED = 1000  # adapters that requests loaded


class Reloader:
    """Follows changes of the document's file."""

    def __init__(self, service: Service, path: Path) -> None:
        self._service, self._path = service, path
        self._document, self._added = service.table.document, dict[str, ServedAdapter]()
        self._seen = self._state()
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Check the file regularly, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            state = self._state()
            if state != self._seen:
                self._seen = state
                await self.reload()

    async def reload(self) -> bool:
        """Read and apply the document; if that fails, keep the old one and return False."""
        async with self._lock:
            try:
                document = await asyncio.to_thread(read_document, self._path)
                if document != self._document:
                    await self._follow(document, self._added)
            except Exception as error:  # noqa: BLE001 - after any error, the next change is followed
                why = str(error) if isinstance(error, ServingError) else type(error).__name__
                LOG.error("the document has changed and is not followed: %s", why)
                self._service.metrics.reloads.labels("refused").inc()
                return False
            self._service.metrics.reloads.labels("done").inc()
            return True

    async def serve_adapter(self, entry: ServedAdapter) -> None:
        """Serve an adapter in addition to those of the document."""
        async with self._lock:
            if entry.name in self._service.table.names(None):
                raise DocumentError(f"{entry.name[:100]!r} is served already")
            if len(self._added) >= MOST_ADDED:
                raise DocumentError(f"{MOST_ADDED} adapters came by requests already: unload one")
            await self._follow(self._document, {**self._added, entry.name: entry})

    async def put_away(self, name: str) -> bool:
        """Unload an adapter; return False if no request loaded it."""
        async with self._lock:
            if name not in self._added:
                return False
            left = {other: entry for other, entry in self._added.items() if other != name}
            await self._follow(self._document, left)
            return True

    async def _follow(self, document: ServingDocument, extra_adapters: Mapping[str, ServedAdapter]) -> None:
        old = self._service.table.document
        if _fixed(document) != _fixed(old):
            raise DocumentError("another base, batch, context or size of the prompt cache needs a new start")
        named = {document.base.name, *document.routes, *(entry.name for entry in document.adapters)}
        extra_adapters = {name: entry for name, entry in extra_adapters.items() if name not in named}
        whole = document.model_copy(update={"adapters": [*document.adapters, *extra_adapters.values()]})
        before = {resident.name: resident for resident in self._service.table.residents}
        now, unchanged = {}, set(old.adapters)
        for entry in whole.adapters:
            if entry in unchanged:
                now[entry.name] = before[entry.name]
            else:  # one after the other, so that answers go on between them
                now[entry.name] = await asyncio.wrap_future(self._service.read(entry))
        self._service.publish(whole, now, extra_adapters.keys())
        self._document, self._added = document, extra_adapters
        names = now.keys() - before.keys(), before.keys() - now.keys()
        came, went = (", ".join(sorted(some)[:10]) or "none" for some in names)
        LOG.info("adapters loaded: %s; unloaded: %s", came, went)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _fixed(document: ServingDocument) -> tuple[object, ...]:
    limits = document.limits
    return document.base, limits.batch, limits.context, limits.prompt_cache_bytes
