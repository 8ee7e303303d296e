"""Following the document: adapters come and go and names move while answers are being written.

Adapters also come by request (`loading`): they stand beside those of the document, which has the last word on every name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from .document import Adapter, Document, read_document
from .errors import DocumentError, ServingError
from .service import Service

LOG = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two looks at the file."""


MOST_BESIDE = 1000
"""Adapters that come by requests."""


class Reloader:
    """Looks at the document's file and does what it says when it has changed."""

    def __init__(self, service: Service, path: Path) -> None:
        """Take the document as it is for the one that is served."""
        self._service, self._path = service, path
        self._document, self._beside = service.table.document, dict[str, Adapter]()
        self._seen = self._state()
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            state = self._state()
            if state != self._seen:
                self._seen = state
                await self.reload()

    async def reload(self) -> bool:
        """Read the document and follow it; keep to the old one if that cannot be done, and return False."""
        async with self._lock:
            try:
                document = await asyncio.to_thread(read_document, self._path)
                if document != self._document:
                    await self._follow(document, self._beside)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next change is to be followed again
                why = str(error) if isinstance(error, ServingError) else type(error).__name__
                LOG.error("the document has changed and is not followed: %s", why)
                self._service.metrics.reloads.labels("refused").inc()
                return False
            self._service.metrics.reloads.labels("done").inc()
            return True

    async def stand_beside(self, entry: Adapter) -> None:
        """Serve an adapter beside those of the document, under its own name.

        Raises:
            DocumentError: something is served under that name.
            AdapterError: it cannot be put on the base.
        """
        async with self._lock:
            if entry.name in self._service.table.names(None):
                raise DocumentError(f"{entry.name[:100]!r} is served already")
            if len(self._beside) >= MOST_BESIDE:
                raise DocumentError(f"{MOST_BESIDE} adapters came by requests already: unload one")
            await self._follow(self._document, {**self._beside, entry.name: entry})

    async def put_away(self, name: str) -> bool:
        """Serve an adapter that stood beside those of the document no more; return False if none of that name does."""
        async with self._lock:
            if name not in self._beside:
                return False
            left = {other: entry for other, entry in self._beside.items() if other != name}
            await self._follow(self._document, left)
            return True

    async def _follow(self, document: Document, beside: Mapping[str, Adapter]) -> None:
        old = self._service.table.document
        if _fixed(document) != _fixed(old):
            raise DocumentError("another base, batch, context or size of the prompt cache needs a new start")
        named = {document.base.name, *document.routes, *(entry.name for entry in document.adapters)}
        beside = {name: entry for name, entry in beside.items() if name not in named}
        whole = document.model_copy(update={"adapters": [*document.adapters, *beside.values()]})
        known = {(entry.name, entry.folder, entry.digest): entry.name for entry in old.adapters}
        have = {resident.name: resident for resident in self._service.table.residents}
        residents = {}
        for entry in whole.adapters:
            same = known.get((entry.name, entry.folder, entry.digest))
            # One after the other, so that answers go on between two of them.
            residents[entry.name] = (
                have[same] if same else await asyncio.wrap_future(self._service.read(entry))
            )
        self._service.publish(whole, residents, beside.keys())
        self._document, self._beside = document, beside
        before, now = set(have), set(residents)
        LOG.info("adapters came: %s; and went: %s", _some(now - before), _some(before - now))

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _fixed(document: Document) -> tuple[object, ...]:
    limits = document.limits
    return document.base, limits.batch, limits.context, limits.prompt_cache_bytes


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:10]) or "none"
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
