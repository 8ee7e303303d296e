"""Following the document: adapters come and go and names move while answers are being written."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from .document import Document, read_document
from .errors import DocumentError, ServingError
from .service import Service

LOG = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two looks at the file."""


class Reloader:
    """Looks at the document's file and does what it says when it has changed."""

    def __init__(self, service: Service, path: Path) -> None:
        """Take the document as it is for the one that is served."""
        self._service, self._path = service, path
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
                await self._follow(await asyncio.to_thread(read_document, self._path))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next change is to be followed again
                why = str(error) if isinstance(error, ServingError) else type(error).__name__
                LOG.error("the document has changed and is not followed: %s", why)
                self._service.metrics.reloads.labels("refused").inc()
                return False
            self._service.metrics.reloads.labels("done").inc()
            return True

    async def _follow(self, document: Document) -> None:
        old = self._service.table.document
        if _fixed(document) != _fixed(old):
            raise DocumentError("another base, batch, context or size of the prompt cache needs a new start")
        if document == old:
            return
        known = {(entry.name, entry.folder, entry.digest): entry.name for entry in old.adapters}
        have = {resident.name: resident for resident in self._service.table.residents}
        residents = {}
        for entry in document.adapters:
            same = known.get((entry.name, entry.folder, entry.digest))
            # One after the other, so that answers go on between two of them.
            residents[entry.name] = (
                have[same] if same else await asyncio.wrap_future(self._service.read(entry))
            )
        self._service.publish(document, residents)
        LOG.info("following the changed document: %s", ", ".join(residents) or "no adapters")

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _fixed(document: Document) -> tuple[object, ...]:
    limits = document.limits
    return document.base, limits.batch, limits.context, limits.prompt_cache_bytes
