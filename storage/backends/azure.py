"""Azure Blob Storage: blocks whose ids say what is in them, sent in parallel, and kept by an upload taken up again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from ..copying import Progress
from ..remote_calls import Body, RemoteCalls, age
from ..remote_errors import RemoteError
from .objects import AHEAD, PART, Entry, Objects, below

MAX_BLOCKS = 45_000
"""Blocks of one blob; Azure allows 50,000."""


class AzureObjects(Objects):
    """Blobs in a container of Azure's, over adlfs and its client."""

    place = "container"
    resumes = True

    def __init__(self, prefix: str, calls: RemoteCalls) -> None:
        """Look below container and folder."""
        super().__init__(prefix, calls)
        self._container, _, folder = prefix.partition("/")
        self._start = f"{folder}/" if folder else ""
        # Azure's client would wait 15 seconds, then 31, then 53 between its own tries.
        calls.file_system.service_client._config.retry_policy.total_retries = 0

    @property
    def in_parts(self) -> bool:
        """True."""
        return True

    def part_size(self, size: int) -> int:
        """Return the bytes of a block."""
        return max(PART, -(-size // MAX_BLOCKS))

    def size(self, name: str) -> int | None:
        """Return a blob's size; adlfs would answer from a listing, or find a folder."""
        try:
            return int(self.calls.run(self._size, self._start + name))
        except RemoteError:
            return None

    def entries(self, folder: str) -> Iterator[Entry]:
        """List page by page; adlfs would take a failure for a folder without anything in it."""
        marker: str | None = None
        while True:
            try:
                marker, found = self.calls.run(self._page, self._start + below(folder), marker)
            except RemoteError as error:
                raise self.no_place() from error
            yield from found
            if not marker:
                return

    def upload(
        self, name: str, parts: Iterable[bytes], size: int, *, exclusive: bool, progress: Progress | None
    ) -> bool:
        """Write a blob in blocks; those of an interrupted upload that hold the same bytes are not sent again.

        Azure drops blocks that nobody commits after a week, and those of all writers when one of them commits his.
        """
        key = self._start + name
        there = self._uncommitted(key)

        def rest() -> None:
            ids: list[str] = []
            for block_id, count in self.calls.in_order(self._sending(key, parts, there), AHEAD):
                ids.append(block_id)
                if progress:
                    progress(count)
            self.calls.run(self._commit, key, ids, exclusive)

        return self.went_on(rest)

    def move(self, name: str, target: str) -> None:
        """Give a blob another name: read and written again, since a copy by the server may take its time."""
        size = self.size(name)
        pieces = (piece for _, piece in self.pieces(name, size or 0))
        if size is not None and self.upload(target, pieces, size, exclusive=False, progress=None):
            self.remove(name)

    def _sending(
        self, key: str, parts: Iterable[bytes], there: frozenset[str]
    ) -> Iterator[Callable[[], Future[Any]]]:
        for number, data in enumerate(parts):
            block_id = _block_id(number, data)
            if block_id in there:
                yield partial(_at_once, (block_id, len(data)))
            else:
                yield partial(self.calls.start, self._send, key, block_id, Body(data, self.calls))

    async def _send(self, file_system: Any, key: str, block_id: str, body: Body) -> tuple[str, int]:
        async with file_system.service_client.get_blob_client(self._container, key) as blob:
            await blob.stage_block(block_id, body.open(), length=len(body.data))
        return block_id, len(body.data)

    async def _commit(self, file_system: Any, key: str, ids: list[str], exclusive: bool) -> None:
        from azure.core import MatchConditions

        condition = {"match_condition": MatchConditions.IfMissing} if exclusive else {}
        async with file_system.service_client.get_blob_client(self._container, key) as blob:
            await blob.commit_block_list(ids, **condition)

    async def _size(self, file_system: Any, key: str) -> Any:
        async with file_system.service_client.get_blob_client(self._container, key) as blob:
            return (await blob.get_blob_properties()).size

    async def _page(
        self, file_system: Any, prefix: str, marker: str | None
    ) -> tuple[str | None, list[Entry]]:
        async with file_system.service_client.get_container_client(self._container) as container:
            pages = container.list_blobs(name_starts_with=prefix).by_page(continuation_token=marker)
            found = [
                Entry(str(blob.name).removeprefix(self._start), int(blob.size), age(blob.last_modified))
                async for blob in await anext(pages)
            ]
        return pages.continuation_token, found

    async def _blocks(self, file_system: Any, key: str) -> frozenset[str]:
        async with file_system.service_client.get_blob_client(self._container, key) as blob:
            _, uncommitted = await blob.get_block_list("uncommitted")
        return frozenset(block.id for block in uncommitted)

    def _uncommitted(self, key: str) -> frozenset[str]:
        try:
            found: frozenset[str] = self.calls.run(self._blocks, key)
        except RemoteError:
            return frozenset()
        return found


def _at_once(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _block_id(number: int, data: bytes) -> str:
    """Return a block's id: all ids of a blob must have one length, at most 64 bytes."""
    return base64.b64encode(number.to_bytes(4) + hashlib.sha256(data).digest()).decode()
