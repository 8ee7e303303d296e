"""S3, Google Cloud Storage and Azure Blob Storage with obstore: small objects in one exclusive request, large ones in parts."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.fsspec import FsspecStore
from obstore.store import from_url

from .copying import Progress
from .errors import StorageError
from .interface import Leftover
from .objects import AHEAD, PART, Objects
from .remote_calls import NoPlaceError, RemoteCalls, RemoteError, StoreSilentError, age

MAX_PARTS = 9_000
"""Maximum number of parts of an upload; S3 and Google allow 10,000, Azure 50,000."""

_PIECE = 1 << 20
_CLIENT = {"allow_http": True, "connect_timeout": "5s", "timeout": "15m"}
# Single requests are retried by `RemoteCalls`.  Only obstore can repeat a part of an upload or a page of a listing.
_ONCE = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
_AGAIN = {"max_retries": 8, "retry_timeout": timedelta(seconds=45)}


class CloudFileSystem(FsspecStore):  # type: ignore[misc]
    """obstore's file system, with two clients for a bucket: one retries requests, one does not."""

    cachable = False

    def __init__(
        self,
        protocol: str,
        config: Mapping[str, Any],
        client: Mapping[str, Any],
        find_credentials: Callable[[], Any] | None = None,
    ) -> None:
        """Initialise from obstore's settings; `find_credentials` makes its credential provider at the first request."""
        super().__init__(protocol)
        self.objects_class = CloudObjects
        self._config, self._client = config, {**_CLIENT, **client}
        self._find_credentials: Callable[[], Any] | None = None
        type(self)._construct_store(self, "x")  # refuses options that obstore does not know
        self._find_credentials = find_credentials

    def _construct_store(self, bucket: str, retries: bool = False) -> Any:
        if self._find_credentials is not None:
            self._credential_provider, self._find_credentials = self._find_credentials(), None
        config, timeout = dict(self._config), {} if retries else {"read_timeout": "20s"}
        if config.get("virtual_hosted_style_request") and "endpoint" in config:
            config["endpoint"] = config["endpoint"].replace("://", f"://{bucket}.", 1)
        return from_url(
            f"{self.protocol}://{bucket}",
            config=config,
            client_options={**timeout, **self._client},
            retry_config=_AGAIN if retries else _ONCE,
            credential_provider=self._credential_provider,
        )

    def at(self, path: str, retries: bool = False) -> tuple[Any, str]:
        """Return the client of a path's bucket, and the key in it."""
        bucket, _, key = path.partition("/")
        return self._construct_store(bucket, retries), key


class CloudObjects(Objects):
    """Objects in a bucket or an Azure container."""

    in_parts = True

    def __init__(self, prefix: str, calls: RemoteCalls) -> None:
        super().__init__(prefix, calls)
        self._has_place = False

    def part_size(self, size: int) -> int:
        """Return the size of a part, so that there are at most `MAX_PARTS`."""
        return max(PART, -(-size // MAX_PARTS))

    def size(self, name: str) -> int | None:
        """Return an object's size, with one request."""
        try:
            return int(self.calls.run(_size, self.key(name)))
        except RemoteError:
            # The reply has no body to say whether the object or the bucket is missing.
            self._require_place()
            return None

    def _require_place(self) -> None:
        """Look once whether the bucket is there; who may not list it is taken at his word."""
        if self._has_place:
            return
        try:
            self.calls.run(_look, self.key("tmp/none"))
        except RemoteError as error:
            raise self._no_place() from error
        except (NoPlaceError, StoreSilentError):
            raise
        except StorageError:
            pass
        self._has_place = True

    def _no_place(self) -> NoPlaceError:
        is_azure = self.calls.file_system.protocol == "az"
        return NoPlaceError(self.calls.where, "container" if is_azure else "bucket")

    def read(self, name: str, limit: int) -> bytes:
        """Return the first bytes of an object, with one request."""
        return bytes(self.calls.run(_get, self.key(name), None, limit, self.calls.mark()))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return a range; each received chunk counts as progress."""
        span = start, end
        return bytes(self.calls.run(_get, self.key(name), span, end - start + 1, self.calls.mark()))

    def write(self, name: str, data: bytes, *, exclusive: bool) -> bool:
        """Write an object in one request."""
        try:
            return self.is_free(lambda: self.calls.run(_put, self.key(name), data, exclusive))
        except RemoteError as error:
            raise self._no_place() from error

    def upload(
        self, name: str, parts: Iterable[bytes], size: int, *, exclusive: bool, progress: Progress
    ) -> bool:
        """Write an object in parts; obstore cannot do so exclusively, so two writers both write the same bytes."""
        feed = _Feed(parts, self.calls, progress)
        send = self.calls.start(_send, self.key(name), feed, self.part_size(size), tries=1)
        try:
            # Concurrent parts share the connection, and a part starts only when another one has completed.
            is_new = self.is_free(lambda: self.calls.wait(send, patience=2 * AHEAD))
        except BaseException:
            if feed.failure is not None:
                raise feed.failure from None
            raise
        finally:
            feed.close()
        while feed.taken and progress:
            progress(feed.taken.popleft())
        return is_new

    def entries(self, folder: str) -> Iterator[Leftover]:
        """List a folder page by page, to save memory."""
        start = self.key("").partition("/")[2]
        try:
            pages = self.calls.run(_listing, self.key(folder).rstrip("/"))
            while page := self.calls.wait(self.calls.start(_page, pages, tries=1)):
                for listed_object in page:
                    name = str(listed_object["path"]).removeprefix(start)
                    yield Leftover(name, int(listed_object["size"]), age(listed_object["last_modified"]))
        except RemoteError as error:
            raise self._no_place() from error


class _Feed:
    """The parts of an upload, which obstore reads one by one in its own thread."""

    def __init__(self, parts: Iterable[bytes], calls: RemoteCalls, progress: Progress) -> None:
        self._parts, self._calls, self._progress = iter(parts), calls, progress
        self.taken: deque[int] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            if self._closed:
                raise RuntimeError("the upload was cancelled")
            self._calls.progressed()
            try:
                if len(self.taken) > AHEAD and self._progress:
                    self._progress(self.taken.popleft())
                data = next(self._parts, None)
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                self.failure = error
                raise RuntimeError("cannot read the file") from None
        if data is None:
            raise StopIteration
        self.taken.append(len(data))
        return data

    def close(self) -> None:
        """Stop reading parts, before the file is closed."""
        with self._lock:
            self._closed = True


async def _size(file_system: CloudFileSystem, path: str) -> int:
    store, key = file_system.at(path)
    return int((await store.head_async(key))["size"])


async def _put(file_system: CloudFileSystem, path: str, data: bytes, exclusive: bool) -> None:
    store, key = file_system.at(path)
    await store.put_async(key, data, mode="create" if exclusive else "overwrite", use_multipart=False)


async def _send(file_system: CloudFileSystem, path: str, feed: _Feed, part: int) -> None:
    store, key = file_system.at(path, retries=True)
    await store.put_async(key, feed, use_multipart=True, chunk_size=part, max_concurrency=AHEAD)


async def _get(
    file_system: CloudFileSystem,
    path: str,
    span: tuple[int, int] | None,
    limit: int,
    reached: Callable[[int], None],
) -> bytes:
    """Return an object or a range of it, at most `limit` bytes: a server may send more than requested."""
    store, key = file_system.at(path)
    reply = await store.get_async(key, options={"range": span} if span else None)
    pieces, count = [], 0
    async for piece in reply.stream(_PIECE):
        pieces.append(piece)
        count += len(piece)
        reached(count)
        if count >= limit:
            break
    return b"".join(pieces)[:limit]


async def _listing(file_system: CloudFileSystem, path: str) -> Any:
    store, prefix = file_system.at(path, retries=True)
    return obstore.list(store, prefix=prefix, chunk_size=1000)


async def _page(_file_system: CloudFileSystem, pages: Any) -> Any:
    return await anext(pages, [])


async def _look(file_system: CloudFileSystem, path: str) -> None:
    await _page(file_system, await _listing(file_system, path))


_S3_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "anon": "skip_signature",
    "endpoint_url": "endpoint",
    "region_name": "region",
    "requester_pays": "request_payer",
}
_GCS_NAMES = {"token": "bearer_token", "anon": "skip_signature", "endpoint_url": "base_url"}
_AZURE_NAMES = {"sas_token": "sas_key", "credential": "account_key", "anon": "skip_signature"}
_CONNECTION = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}
_AZURE_KINDS = {"account_key": "access_key", "sas_key": "sas_token", "client_secret": "client_secret"}
_FRESH = timedelta(minutes=5)
"""Lifetime of credentials in obstore; botocore renews them."""


def file_system(protocol: str, **options: Any) -> CloudFileSystem:
    """Return the file system of `s3`, `gs` or `az`; raise TypeError for an unknown option."""
    if protocol == "gs":
        config = {_GCS_NAMES.get(name, name): value for name, value in options.items()}
        return CloudFileSystem("gs", config, {})
    return _s3(options) if protocol == "s3" else _azure(options)


def _s3(options: Mapping[str, Any]) -> CloudFileSystem:
    given = {**options, **options.get("client_kwargs", {})}
    given.pop("client_kwargs", None)
    profile = given.pop("profile", None)
    verify = given.pop("verify", None)  # None is the default, as in boto3
    if verify is None:
        verify = os.environ.get("AWS_CA_BUNDLE") or True
    client: dict[str, object] = {} if verify else {"allow_invalid_certificates": True}
    if isinstance(verify, str):
        client = {"root_certificate": Path(verify).read_bytes()}
    plain = {name.removeprefix("aws_"): value for name, value in given.items() if value is not None}
    config = {_S3_NAMES.get(name, name): value for name, value in plain.items()}
    if "access_key_id" in config and not profile:
        credentials = {name: config.pop(name, None) for name in ("access_key_id", "secret_access_key")}
        credentials |= {"token": config.pop("session_token", None), "expires_at": None}
        return CloudFileSystem("s3", config, client, lambda: lambda: credentials)
    if config.get("skip_signature"):
        return CloudFileSystem("s3", config, client)
    from botocore.session import Session

    session = Session(profile=profile)
    settings = {"region": session.get_config_variable("region")}
    if not (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        settings["endpoint"] = session.get_scoped_config().get("endpoint_url")
    config = {name: value for name, value in settings.items() if value} | config
    return CloudFileSystem("s3", config, client, lambda: _provider(session))


def _provider(session: Any) -> Callable[[], Any]:
    """Return a credential provider that asks botocore: environment, profile, container, instance."""
    from botocore.exceptions import NoCredentialsError

    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError

    def provide() -> Mapping[str, object]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _FRESH,
        }

    return provide


def _azure(options: Mapping[str, Any]) -> CloudFileSystem:
    given = dict(options)
    text = given.pop("connection_string", None)
    if not given.keys() & {"account_name", "account_key", "sas_token"}:
        text = text or os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    host = given.pop("account_host", None)
    config = {"endpoint": f"https://{host}"} if host else {}
    config |= _connection(text) if text else {}
    config |= {_AZURE_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    # Otherwise a key in the environment would override a signature in the options.
    kind = next((kind for name, kind in _AZURE_KINDS.items() if name in config), None)
    return CloudFileSystem("az", {**({"credential_type": kind} if kind else {}), **config}, {})


def _connection(text: str) -> dict[str, str]:
    parts = {name: value for name, _, value in (part.partition("=") for part in text.split(";")) if value}
    connection_options = {_CONNECTION[name]: value for name, value in parts.items() if name in _CONNECTION}
    if "endpoint" not in connection_options and "EndpointSuffix" in parts:
        scheme = parts.get("DefaultEndpointsProtocol", "https")
        connection_options["endpoint"] = f"{scheme}://{parts['AccountName']}.blob.{parts['EndpointSuffix']}"
    return connection_options
