"""S3 and what speaks like it: uploads in parts that are sent again one by one, and taken up again after a crash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from ..copying import Progress
from ..layout import parse_blob_name
from ..remote_calls import Body, RemoteCalls, age
from ..remote_errors import RemoteError
from .objects import AHEAD, PART, Entry, Objects, Upload, below

MAX_PARTS = 9_000
"""Parts of one upload; S3 allows 10,000."""

RESUME_WITHIN = 20 * 3600.0
"""Seconds; an older upload is left to the collection, which may be about to abort it."""

FEW = 8
"""Objects up to which each is looked at by itself."""

LISTED = 32
"""Names that are listed at most for each object whose size is wanted: a thousand come in one reply."""

_PIECE = 1 << 20


def file_system(**options: Any) -> Any:
    """Return s3fs's file system; options that botocore refuses when it connects are said to be wrong options."""
    from s3fs import S3FileSystem

    class Checked(S3FileSystem):  # type: ignore[misc]
        cachable = False

        async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
            try:
                return await super().set_session(refresh=refresh, kwargs=kwargs or {})
            except (TypeError, KeyError, AttributeError) as error:
                raise ValueError("botocore refuses the options") from error

    return Checked(**options)


class S3Objects(Objects):
    """Objects in an S3 bucket, over s3fs."""

    resumes = True

    def __init__(self, prefix: str, calls: RemoteCalls) -> None:
        """Look below bucket and folder."""
        super().__init__(prefix, calls)
        # s3fs tries everything five times, and nested.
        calls.file_system.retries = 1
        self._bucket, _, folder = prefix.partition("/")
        self._start = f"{folder}/" if folder else ""
        self._gone: set[str] = set()

    @property
    def in_parts(self) -> bool:
        """True."""
        return True

    def part_size(self, size: int) -> int:
        """Return the bytes of a part: larger ones where there would be too many."""
        return max(PART, -(-size // MAX_PARTS))

    def size(self, name: str) -> int | None:
        """Return an object's size, by one request."""
        try:
            return int(self._ask("head_object", Bucket=self._bucket, Key=self._start + name)["ContentLength"])
        except RemoteError:
            # The reply to this request has no body to say what is missing.
            self.see_place(_look_for_bucket, self._bucket)
            return None

    def read(self, name: str, limit: int) -> bytes:
        """Return the beginning of an object, by one request."""
        return bytes(self.calls.run(self._begin_of, self._start + name, limit))

    def whole(self, name: str, size: int) -> bytes | None:
        """Return a small object by one request, None if it has another size."""
        found = self.calls.run(self._all_of, self._start + name, size, self.calls.mark())
        return None if found is None else bytes(found)

    def sizes(self, names: Sequence[str], folder: str) -> dict[str, int]:
        """Return sizes, by listing the folder as long as that takes fewer requests than a look at each."""
        wanted, seen = set(names), dict[str, int]()
        if len(wanted) < FEW:
            return super().sizes(names, folder)
        for number, entry in enumerate(self.entries(folder), start=1):
            if entry.name in wanted:
                seen[entry.name] = entry.size
            # Names are spread over the folder: whoever has seen few of them by then would go on for long.
            if len(seen) == len(wanted) or number >= LISTED * len(wanted):
                break
        return seen | super().sizes([name for name in names if name not in seen], folder)

    def start_read(self, name: str, start: int, end: int) -> Future[Any]:
        """Begin to read a range; what arrives counts as progress, however slow the line."""
        return self.calls.start(self._get, self._start + name, start, end, self.calls.mark())

    def write(self, name: str, data: bytes, *, exclusive: bool) -> bool:
        """Write an object in one request."""
        return self.done(
            lambda: self.calls.run(self._put, self._start + name, Body(data, self.calls), exclusive)
        )

    def upload(
        self, name: str, parts: Iterable[bytes], size: int, *, exclusive: bool, progress: Progress | None
    ) -> bool:
        """Write an object in parts; those of an interrupted upload that match are not sent again.

        Whether its writer was killed or is at work cannot be told, so that several may send the parts of one upload, which
        are the same bytes.  One of them completes it; to the others it is gone, and the object there.  Nobody aborts an
        upload here: somebody else may be completing it.
        """
        key = self._start + name
        upload_id, there = self._unfinished(key) or (self._begin(key), {})

        def rest() -> None:
            tags: list[str] = []
            for tag, count in self.calls.in_order(self._sending(key, upload_id, parts, there), AHEAD):
                tags.append(tag)
                if progress:
                    progress(count)
            self._complete(key, upload_id, tags, exclusive)

        try:
            return self.went_on(rest)
        except RemoteError:
            # Some servers go on listing it.
            self._gone.add(upload_id)
            raise

    def entries(self, folder: str) -> Iterator[Entry]:
        """List page by page, so that a million names need no memory and one lost reply costs one page."""
        options: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._start + below(folder)}
        while True:
            try:
                page = self._ask("list_objects_v2", **options)
            except RemoteError as error:
                raise self.no_place() from error
            for item in page.get("Contents", []):
                name = str(item["Key"]).removeprefix(self._start)
                yield Entry(name, int(item["Size"]), age(item["LastModified"]))
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def uploads(self) -> Iterator[Upload]:
        """List the unfinished uploads under the prefix, and no others of the bucket."""
        for item in self._listed(self._start):
            name = str(item["Key"]).removeprefix(self._start)
            if parse_blob_name(name):
                yield Upload(name, str(item["UploadId"]), age(item["Initiated"]))

    def abort(self, name: str, upload_id: str) -> None:
        """Abort an upload, and free its parts."""
        with suppress(RemoteError):
            self._ask(
                "abort_multipart_upload", Key=self._start + name, UploadId=upload_id, Bucket=self._bucket
            )

    def _ask(self, operation: str, **options: Any) -> Any:
        return self.calls.run("call_s3", operation, **options)

    async def _get(
        self, file_system: Any, key: str, start: int, end: int, reached: Callable[[int], None]
    ) -> bytes:
        span = f"bytes={start}-{end - 1}"
        reply = await file_system._call_s3("get_object", Bucket=self._bucket, Key=key, Range=span)
        return await _read(reply["Body"], end - start, reached)

    async def _all_of(
        self, file_system: Any, key: str, size: int, reached: Callable[[int], None]
    ) -> bytes | None:
        reply = await file_system._call_s3("get_object", Bucket=self._bucket, Key=key)
        if reply["ContentLength"] != size:
            reply["Body"].close()
            return None
        return await _read(reply["Body"], size, reached)

    async def _begin_of(self, file_system: Any, key: str, limit: int) -> bytes:
        reply = await file_system._call_s3("get_object", Bucket=self._bucket, Key=key)
        found, body = b"", reply["Body"]
        try:
            while len(found) < limit and (piece := await body.read(min(_PIECE, limit - len(found)))):
                found += piece
        finally:
            body.close()
        return found

    async def _put(self, file_system: Any, key: str, body: Body, exclusive: bool) -> None:
        condition = {"IfNoneMatch": "*"} if exclusive else {}
        await file_system._call_s3("put_object", Bucket=self._bucket, Key=key, Body=body.open(), **condition)

    def _sending(
        self, key: str, upload_id: str, parts: Iterable[bytes], there: dict[int, str]
    ) -> Iterator[Callable[[], Future[Any]]]:
        for number, data in enumerate(parts, start=1):
            tag = there.get(number)
            if tag is not None and tag.strip('"') == _md5(data):
                yield partial(_at_once, (tag, len(data)))
            else:
                yield partial(self.calls.start, self._send, key, upload_id, number, Body(data, self.calls))

    async def _send(
        self, file_system: Any, key: str, upload_id: str, number: int, body: Body
    ) -> tuple[str, int]:
        reply = await file_system._call_s3(
            "upload_part",
            Bucket=self._bucket,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            Body=body.open(),
        )
        return str(reply["ETag"]), len(body.data)

    def _begin(self, key: str) -> str:
        found: list[Any] = []
        self.done(lambda: found.append(self._ask("create_multipart_upload", Bucket=self._bucket, Key=key)))
        return str(found[0]["UploadId"])

    def _complete(self, key: str, upload_id: str, tags: list[str], exclusive: bool) -> None:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
        self._ask(
            "complete_multipart_upload",
            Bucket=self._bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            **({"IfNoneMatch": "*"} if exclusive else {}),
        )

    def _unfinished(self, key: str) -> tuple[str, dict[int, str]] | None:
        """Return an upload of this object that was interrupted, with the tags of the parts that arrived."""
        for item in self._listed(key):
            upload_id = str(item["UploadId"])
            if item["Key"] == key and upload_id not in self._gone and age(item["Initiated"]) < RESUME_WITHIN:
                try:
                    return upload_id, dict(self._parts(key, upload_id))
                except RemoteError:
                    continue
        return None

    def _parts(self, key: str, upload_id: str) -> Iterator[tuple[int, str]]:
        marker: dict[str, Any] = {}
        while True:
            page = self._ask("list_parts", Bucket=self._bucket, Key=key, UploadId=upload_id, **marker)
            for part in page.get("Parts", []):
                yield int(part["PartNumber"]), str(part["ETag"])
            if not page.get("IsTruncated"):
                return
            marker = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def _listed(self, prefix: str) -> Iterator[dict[str, Any]]:
        marker: dict[str, Any] = {}
        while True:
            try:
                page = self._ask("list_multipart_uploads", Bucket=self._bucket, Prefix=prefix, **marker)
            except RemoteError:
                return
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            marker = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page.get("NextUploadIdMarker", ""),
            }


async def _read(body: Any, size: int, reached: Callable[[int], None]) -> bytes:
    """Return a body of which so many bytes are expected.

    Raises:
        ConnectionResetError: it ended early, and the client did not notice.
    """
    pieces, count = [], 0
    try:
        # A server that ignores the range, or never ends, is noticed by what it sent too much.
        while count <= size and (piece := await body.read(_PIECE)):
            pieces.append(piece)
            count += len(piece)
            reached(count)
    finally:
        body.close()
    if count < size:
        raise ConnectionResetError
    return b"".join(pieces)


async def _look_for_bucket(file_system: Any, bucket: str) -> None:
    await file_system._call_s3("head_bucket", Bucket=bucket)


def _at_once(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _md5(data: bytes) -> str:
    """Return the tag that S3 gives a part; where a server makes its tags otherwise, the part is sent again."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
