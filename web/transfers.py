"""Packages and blobs for programs that push and pull: blobs by digest, in ranges, and resumable."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.uploads import Upload, UploadLimits
from fusery.registry.record import Record
from fusery.registry.records.transfer import Arrived, PackagePlan, PackageTaken
from fusery.storage.errors import BlobCorruptError
from fusery.storage.interface import Blob

from .answers import refusal
from .auth import LengthError, TooSlowError, program_of
from .limits import SLOWEST, STALLED, WHOLE
from .rendering import presentable
from .routes import API, BYTES, Routes

_PIECE = 1 << 20  # bytes that are written to the disk at once
_JSON = "application/json"
_MOST_DIGESTS = 900
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_NUMBER = re.compile(r"\d{1,19}")


def add_transfers(routes: Routes, registry: Registry, limits: UploadLimits) -> None:
    """Add the routes of push and pull."""

    @routes.add("GET", f"{API}/packages/{{reference:path}}", role="reader", sends=_JSON)
    def package(reference: str, fused: bool = False) -> Response:
        """Return the package of a record for `fusery pull`."""
        return Response(registry.transfers.package(reference, fused=fused), media_type=_JSON)

    @routes.add("POST", f"{API}/packages/plan", role="publisher", record=PackagePlan, takes=_JSON)
    async def planned(request: Request) -> Response:
        """Return what would be recorded of a package, and which blobs are needed."""
        transfers = program_of(request).acting(registry).transfers
        return _answer(await run_in_threadpool(transfers.plan, await _body(request), limits))

    @routes.add("POST", f"{API}/packages", role="publisher", record=PackageTaken, takes=_JSON)
    async def taken(request: Request) -> Response:
        """Record a package whose blobs are uploaded."""
        transfers = program_of(request).acting(registry).transfers
        return _answer(await run_in_threadpool(transfers.take, await _body(request), limits))

    @routes.add("POST", f"{API}/blobs/missing", role="publisher", record=tuple[Arrived, ...])
    def missing(request: Request, wanted: Annotated[list[str], Body(max_length=_MOST_DIGESTS)]) -> Response:
        """Return how much of each blob has arrived."""
        content = program_of(request).acting(registry).transfers.arrived(wanted, limits)
        return JSONResponse([arrived_blob.to_dict() for arrived_blob in content])

    @routes.add("HEAD", f"{API}/blobs/{{digest}}", role="reader")
    @routes.add("GET", f"{API}/blobs/{{digest}}", role="reader", sends=BYTES)
    def blob(request: Request, digest: str) -> Response:
        """Return a blob, or a range of it."""
        try:
            content = registry.transfers.blob(digest)
        except BlobCorruptError as error:
            return refusal(request, error, 500)  # a fault of this server's store, not of the request
        return _sent(request, registry, content)

    @routes.add("PUT", f"{API}/blobs/{{digest}}", role="publisher", record=Arrived, takes=BYTES)
    async def stored(request: Request, digest: str) -> Response:
        """Upload a blob, or the rest of it."""
        transfers = program_of(request).acting(registry).transfers
        offset, size = _announced(request)
        upload = await run_in_threadpool(transfers.begin, digest, size, offset, limits)
        if upload is not None:
            try:
                await _receive(request, upload)
            finally:
                upload.close()  # before anything else, so that the next request finds the part file free
                if not upload.has_claim:
                    await run_in_threadpool(upload.release)
        return _answer(Arrived(digest, True, 0))


def _answer(record: Record) -> Response:
    return JSONResponse(presentable(record.to_dict()))


def _announced(request: Request) -> tuple[int, int]:
    """Return the offset and the size of the blob that an upload's headers announce."""
    headers = request.headers
    length = headers.get("content-length", "")
    if not _NUMBER.fullmatch(length) or "transfer-encoding" in headers:
        raise LengthError("an upload needs a Content-Length")
    offset = headers.get("upload-offset", "0")
    size = headers.get("upload-length", length)
    if not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(size) or int(offset) + int(length) != int(size):
        raise BadInputError("Upload-Offset and Content-Length do not add up to Upload-Length")
    return int(offset), int(size)


async def _receive(request: Request, upload: Upload) -> None:
    """Write a body; a piece is read while the one before is written."""
    piece, writing = bytearray(), None
    try:
        async for chunk in _chunks(request):
            piece += chunk
            if len(piece) >= _PIECE:
                if writing is not None:
                    await writing
                writing, piece = asyncio.ensure_future(run_in_threadpool(upload.write, piece)), bytearray()
    finally:
        # Received bytes are kept, and no thread writes to a closed file.
        if writing is not None:
            await writing
        if piece and len(piece) <= upload.missing:
            upload.write(piece)
            piece = bytearray()
    if piece or upload.missing:
        upload.discard()
        raise BadInputError("the body does not have the announced length")
    await run_in_threadpool(upload.finish)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the chunks of a body; end stalled and very slow transfers."""
    stream, since, come = aiter(request.stream()), time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(STALLED):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise BadInputError(f"nothing came for {STALLED} seconds") from error
        except ClientDisconnect as error:
            raise BadInputError("the connection was closed before all had come") from error
        come += len(chunk)
        if (passed := time.monotonic() - since) >= STALLED:
            if come < SLOWEST * passed:
                raise TooSlowError(f"less than {SLOWEST:,} bytes a second came for {STALLED} s")
            since, come = time.monotonic(), 0
        yield chunk


async def _body(request: Request) -> bytes:
    """Return a whole body, which has to arrive in time, since it holds a slot."""
    try:
        async with asyncio.timeout(WHOLE):
            return b"".join([chunk async for chunk in _chunks(request)])
    except TimeoutError as error:
        raise TooSlowError(f"this did not come within {WHOLE} s", hint="push less at once") from error


def _sent(request: Request, registry: Registry, blob: Blob) -> Response:
    """Return the requested range of a blob; the whole blob if several ranges are requested."""
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{blob.digest}"', "Content-Type": BYTES}
    start, stop, status = 0, blob.size, 200
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match and any(match.groups()) and request.method == "GET":
        first, last = match.groups()
        if not first:
            start = max(0, blob.size - int(last))
        else:
            start, stop = int(first), min(blob.size, int(last) + 1) if last else blob.size
        if start >= stop:
            refused = refusal(request, BadInputError("there are no such bytes", hint="Range: bytes=0-"), 416)
            refused.headers.update({"Accept-Ranges": "bytes", "Content-Range": f"bytes */{blob.size}"})
            return refused
        status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{blob.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(headers=headers)
    # No intent is written for each reader: referenced blobs are not collected, and an open file outlives its name.
    return StreamingResponse(registry.transfers.pieces(blob, start, stop), status, headers)
