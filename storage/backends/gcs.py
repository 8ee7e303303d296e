"""Google Cloud Storage: large objects by a resumable session, chunk after chunk, each sent again by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..copying import Progress
from ..interface import Leftover
from ..remote_calls import RemoteCalls, RemoteError, age
from . import Objects, below

_TYPE = "application/octet-stream"


def file_system(**options: Any) -> Any:
    """Return gcsfs's file system without its own retries, and without its look for other kinds of buckets by gRPC.

    Those retries wait up to a minute behind our back and print tracebacks; the look for hierarchical buckets hangs on
    every server that is not Google's.
    """
    from gcsfs.core import GCSFileSystem

    class Plain(GCSFileSystem):  # type: ignore[misc]
        _request = GCSFileSystem._request.__wrapped__

    return Plain(**options)


class GcsObjects(Objects):
    """Objects in a bucket of Google Cloud Storage, over gcsfs."""

    in_parts = True

    def __init__(self, prefix: str, calls: RemoteCalls) -> None:
        """Look below bucket and folder."""
        super().__init__(prefix, calls)
        self._bucket, _, folder = prefix.partition("/")
        self._start = f"{folder}/" if folder else ""

    def size(self, name: str) -> int | None:
        """Return an object's size; gcsfs would take a refusal for a name that is not there."""
        try:
            return int(self.calls.run(_describe, self._bucket, self._start + name)["size"])
        except RemoteError:
            # gcsfs has one word for an object and a bucket that are not there.
            self.see_place(_look_for_bucket, self._bucket)
            return None

    def entries(self, folder: str) -> Iterator[Leftover]:
        """List page by page."""
        options = {"prefix": self._start + below(folder)}
        while True:
            try:
                page = self.calls.run(_page, self._bucket, options)
            except RemoteError as error:
                raise self.no_place() from error
            for item in page.get("items", []):
                name = str(item["name"]).removeprefix(self._start)
                yield Leftover(name, int(item["size"]), age(item["updated"]))
            if "nextPageToken" not in page:
                return
            options["pageToken"] = page["nextPageToken"]

    def upload(
        self, name: str, parts: Iterable[bytes], size: int, *, exclusive: bool, progress: Progress | None
    ) -> bool:
        """Write an object chunk by chunk: a session of Google's has one writer, and takes no chunk out of turn.

        An interrupted session is nothing anybody sees; Google forgets it after a week.
        """
        begun: list[str] = []
        if not self.done(
            lambda: begun.append(self.calls.run(_begin, self._bucket, self._start + name, exclusive))
        ):
            return False
        return self.went_on(lambda: self._send_all(begun[0], parts, size, progress))

    def _send_all(self, session: str, parts: Iterable[bytes], size: int, progress: Progress | None) -> None:
        offset = 0
        try:
            for data in parts:
                self.calls.run(_send, session, data, offset, size)
                offset += len(data)
                if progress:
                    progress(len(data))
        except BaseException as error:
            # A session whose object exists, or which is gone, has ended.
            if not isinstance(error, RemoteError):
                self.calls.tidy(_end, session)
            raise


async def _describe(file_system: Any, bucket: str, key: str) -> Any:
    return await file_system._call("GET", "b/{}/o/{}", bucket, key, json_out=True)


async def _look_for_bucket(file_system: Any, bucket: str) -> None:
    await file_system._call("GET", "b/{}", bucket, json_out=True)


async def _page(file_system: Any, bucket: str, options: dict[str, str]) -> Any:
    return await file_system._call("GET", "b/{}/o", bucket, json_out=True, **options)


async def _begin(file_system: Any, bucket: str, key: str, exclusive: bool) -> Any:
    from gcsfs.core import initiate_upload

    mode = "create" if exclusive else "overwrite"
    return await initiate_upload(file_system, bucket, key, _TYPE, mode=mode)


async def _send(file_system: Any, session: str, data: bytes, offset: int, size: int) -> Any:
    from gcsfs.core import upload_chunk

    # What Google has already is passed over, so that a chunk whose reply was lost can be sent again.
    return await upload_chunk(file_system, session, data, offset, size, _TYPE)


async def _end(file_system: Any, session: str) -> None:
    await file_system._call("DELETE", session.replace("&ifGenerationMatch=0", ""))
