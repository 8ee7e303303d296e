"""Packages and bytes for programs that push and pull: blobs by their digests, piece by piece in both directions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.uploads import Upload, UploadLimits
from fusery.registry.exchange.wire import bytes_of
from fusery.registry.record import Record
from fusery.registry.records.transfer import Arrived, PackagePlan, PackageTaken
from fusery.storage.errors import BlobCorruptError
from fusery.storage.interface import Blob

from .answers import presentable, refusal
from .limits import SLOWEST, STALLED, WHOLE
from .openapi import BYTES
from .routes import API, Routes
from .visitors import LengthError, TooSlowError, program_of

_PIECE = 1 << 20
"""Bytes that are handed to the disk at a time."""

_JSON = "application/json"
_MOST_DIGESTS = 900
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_NUMBER = re.compile(r"\d{1,19}")


def add_transfers(routes: Routes, registry: Registry, limits: UploadLimits) -> None:
    """Add what programs push to and pull from."""

    def acting(request: Request) -> Registry:
        visitor = program_of(request)
        return registry.acting(
            visitor.name, authenticated=visitor.authenticated, role=visitor.role or "reader"
        )

    @routes.get(f"{API}/packages/{{reference:path}}", role="reader", sends=_JSON)
    def package(reference: str, fused: bool = False) -> Response:
        """Return a thing and all that it needs, as `fusery pull` takes it."""
        document = registry.transfers.package(reference, fused=fused)
        return Response(bytes_of(document), media_type="application/json")

    @routes.post(f"{API}/packages/plan", PackagePlan, role="publisher", takes=_JSON)
    async def planned(request: Request) -> Response:
        """Say what would become of a package, and which of its bytes are wanted."""
        data = await _body(request)
        return _answer(await run_in_threadpool(acting(request).transfers.plan, data, limits))

    @routes.post(f"{API}/packages", PackageTaken, role="publisher", takes=_JSON)
    async def taken(request: Request) -> Response:
        """Record a package of which all bytes are here."""
        data = await _body(request)
        return _answer(await run_in_threadpool(acting(request).transfers.take, data, limits))

    @routes.post(f"{API}/blobs/missing", tuple[Arrived, ...], role="publisher", takes=_JSON)
    async def missing(request: Request) -> Response:
        """Say of blobs how much of each has arrived."""
        wanted = _digests(await _body(request))
        found = await run_in_threadpool(acting(request).transfers.arrived, wanted, limits)
        return JSONResponse([each.to_dict() for each in found])

    @routes.get(f"{API}/blobs/{{digest}}", role="reader", sends=BYTES, head=True)
    def blob(request: Request, digest: str) -> Response:
        """Return a blob, or a range of it."""
        try:
            found = registry.transfers.blob(digest)
        except BlobCorruptError as error:
            return refusal(request, error, 500)  # a fault of this server's store, not of the request
        return _sent(request, registry, found)

    @routes.put(f"{API}/blobs/{{digest}}", Arrived, role="publisher", takes=BYTES)
    async def stored(request: Request, digest: str) -> Response:
        """Store a blob, or what is missing of it."""
        by = acting(request)
        offset, size = _announced(request)
        upload = await run_in_threadpool(by.transfers.begin, digest, size, offset, limits)
        if upload is not None:
            try:
                await _received(request, upload)
            finally:
                # At once, whatever happens to this task: who comes next finds the part file free.
                upload.close()
        return _answer(Arrived(digest, True, 0))


def _answer(record: Record) -> Response:
    return JSONResponse(presentable(record.to_dict()))


def _announced(request: Request) -> tuple[int, int]:
    """Return what the headers say of an upload: where the bytes that come belong, and how many there are in all.

    Raises:
        LengthError: they do not say how many come.
        BadInputError: they contradict each other.
    """
    headers = request.headers
    length = headers.get("content-length", "")
    if not _NUMBER.fullmatch(length) or "transfer-encoding" in headers:
        raise LengthError("an upload needs a Content-Length")
    offset = headers.get("upload-offset", "0")
    size = headers.get("upload-length", length)
    if not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(size) or int(offset) + int(length) != int(size):
        raise BadInputError("Upload-Offset and Content-Length do not add up to Upload-Length")
    return int(offset), int(size)


async def _received(request: Request, upload: Upload) -> None:
    """Write what comes, the next piece being read while one is written."""
    piece, writing = bytearray(), None
    try:
        async for chunk in _chunks(request):
            piece += chunk
            if len(piece) >= _PIECE:
                if writing is not None:
                    await writing
                writing, piece = asyncio.ensure_future(run_in_threadpool(upload.write, piece)), bytearray()
    finally:
        # What has come is kept, and no thread writes to a file that is closed.
        if writing is not None:
            await writing
        if piece and len(piece) <= upload.missing:
            upload.write(piece)
            piece = bytearray()
    if piece or upload.missing:
        upload.discard()
        raise BadInputError("other bytes came than were announced")
    await run_in_threadpool(upload.finish)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield what comes of a body; who sends nothing for a while, or next to nothing, is not waited for."""
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
    """Return what is to come as a whole, within a time: others wait for the turn that it takes."""
    try:
        async with asyncio.timeout(WHOLE):
            return b"".join([chunk async for chunk in _chunks(request)])
    except TimeoutError as error:
        raise TooSlowError(f"this did not come within {WHOLE} s", hint="push less at once") from error


def _digests(data: bytes) -> list[str]:
    from fusery.storage.errors import FormatError
    from fusery.storage.jsonfile import parse_json

    try:
        wanted = parse_json(data, "the list of blobs")
    except FormatError as error:
        raise BadInputError(str(error)) from error
    if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
        raise BadInputError("a list of digests is expected")
    if len(wanted) > _MOST_DIGESTS:
        raise BadInputError(f"at most {_MOST_DIGESTS} digests at a time")
    return wanted


def _sent(request: Request, registry: Registry, blob: Blob) -> Response:
    """Return the bytes of a blob that are asked for; of several ranges, all of it."""
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{blob.digest}"',
        "Content-Type": BYTES,
    }
    start, stop, status = 0, blob.size, 200
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match and any(match.groups()) and request.method == "GET":
        span = _span(match[1], match[2], blob.size)
        if span is None:
            refused = refusal(request, BadInputError("there are no such bytes", hint="Range: bytes=0-"), 416)
            refused.headers.update({"Accept-Ranges": "bytes", "Content-Range": f"bytes */{blob.size}"})
            return refused
        start, stop, status = *span, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(_pieces(registry, blob, start, stop), status, headers)


def _pieces(registry: Registry, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
    # What something refers to is not collected, and an open file outlives its name; so no intent is written for each reader.
    yield from registry.transfers.pieces(blob, start, stop)


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    """Return the bytes from one place to another; None where there are none."""
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None
