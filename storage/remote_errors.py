"""What the ways of failing of fsspec's file systems mean, told apart without repeating their texts.

A text of theirs may hold a URL, a header or an option, and so a secret: fusery's own messages name the class or the
code of a failure and nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from enum import Enum

from .errors import OutOfSpaceError, StorageError, StoreDeniedError, StoreUnavailableError
from .failures import DENIED, FULL


class Kind(Enum):
    """What a failure of a file system means."""

    EXISTS = "exists"
    MISSING = "missing"
    DENIED = "denied"
    FULL = "full"
    TRANSIENT = "transient"
    BROKEN = "broken"


class RemoteError(Exception):
    """A failure that the store decides about: the name is taken, or it is not there.

    Attributes:
        kind: `EXISTS` or `MISSING`.
    """

    def __init__(self, kind: Kind) -> None:
        """Carry the kind."""
        super().__init__(kind.value)
        self.kind = kind


class NoPlaceError(StoreUnavailableError):
    """What a store is to be in, such as its bucket, is not there."""

    def __init__(self, where: str, place: str, code: str = "") -> None:
        """Build the sentence.

        Args:
            where: the store's URL.
            place: what the backend calls it.
            code: the server's word for the failure.
        """
        text = f"the store {where} has no such {place}"
        super().__init__(f"{text}: {code}" if code else text, hint=f"make the {place}, or correct the URL")


# What the libraries below fsspec let through beside OSError.  They are looked up by name among the modules that are
# loaded: one that is not loaded cannot have raised anything, and loading it would take a second.  The first that
# fits counts: subclasses stand before their bases.
_CLASSES: tuple[tuple[str, str, Kind], ...] = (
    ("botocore.exceptions", "NoCredentialsError", Kind.DENIED),
    ("botocore.exceptions", "PartialCredentialsError", Kind.DENIED),
    ("botocore.exceptions", "ProfileNotFound", Kind.DENIED),
    ("azure.core.exceptions", "ClientAuthenticationError", Kind.DENIED),
    ("google.auth.exceptions", "GoogleAuthError", Kind.DENIED),
    ("asyncssh.misc", "PermissionDenied", Kind.DENIED),
    ("asyncssh.misc", "HostKeyNotVerifiable", Kind.DENIED),
    ("asyncssh.public_key", "KeyImportError", Kind.DENIED),
    ("asyncssh.public_key", "KeyEncryptionError", Kind.DENIED),
    ("asyncssh.sftp", "SFTPPermissionDenied", Kind.DENIED),
    ("asyncssh.sftp", "SFTPWriteProtect", Kind.DENIED),
    ("asyncssh.sftp", "SFTPNoSpaceOnFilesystem", Kind.FULL),
    ("asyncssh.sftp", "SFTPQuotaExceeded", Kind.FULL),
    ("asyncssh.sftp", "SFTPFileAlreadyExists", Kind.EXISTS),
    ("azure.core.exceptions", "ResourceExistsError", Kind.EXISTS),
    ("azure.core.exceptions", "ResourceModifiedError", Kind.EXISTS),
    ("asyncssh.sftp", "SFTPNoSuchFile", Kind.MISSING),
    ("asyncssh.sftp", "SFTPNoSuchPath", Kind.MISSING),
    ("azure.core.exceptions", "ResourceNotFoundError", Kind.MISSING),
    ("aiohttp", "ClientError", Kind.TRANSIENT),
    ("requests.exceptions", "ConnectionError", Kind.TRANSIENT),
    ("requests.exceptions", "Timeout", Kind.TRANSIENT),
    ("requests.exceptions", "ChunkedEncodingError", Kind.TRANSIENT),
    ("botocore.exceptions", "HTTPClientError", Kind.TRANSIENT),
    ("botocore.exceptions", "ConnectionError", Kind.TRANSIENT),
    ("botocore.exceptions", "FlexibleChecksumError", Kind.TRANSIENT),
    ("botocore.exceptions", "ResponseStreamingError", Kind.TRANSIENT),
    ("azure.core.exceptions", "ServiceRequestError", Kind.TRANSIENT),
    ("azure.core.exceptions", "ServiceResponseError", Kind.TRANSIENT),
    ("azure.core.exceptions", "IncompleteReadError", Kind.TRANSIENT),
    ("gcsfs.retry", "ChecksumError", Kind.TRANSIENT),
    ("asyncssh.misc", "DisconnectError", Kind.TRANSIENT),
    ("asyncssh.misc", "ChannelOpenError", Kind.TRANSIENT),
    ("asyncssh.sftp", "SFTPConnectionLost", Kind.TRANSIENT),
    ("asyncssh.sftp", "SFTPNoConnection", Kind.TRANSIENT),
    ("asyncssh.misc", "Error", Kind.BROKEN),
    ("botocore.exceptions", "BotoCoreError", Kind.BROKEN),
    ("botocore.exceptions", "ClientError", Kind.BROKEN),
    ("azure.core.exceptions", "AzureError", Kind.BROKEN),
    ("gcsfs.retry", "HttpError", Kind.BROKEN),
)

_TRANSIENT_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        "EBUSY", "EREMOTEIO", "EIO", "EAGAIN", "EINTR", "EPIPE", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH",
        "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ENETRESET", "ENETDOWN",
    )
    if hasattr(errno, name)
)  # fmt: skip

# S3 says PreconditionFailed, Azure ConditionNotMet and BlobAlreadyExists.  s3fs makes it a FileExistsError only for
# servers that name the condition, which SeaweedFS does not.
_EXISTS_CODES = frozenset({"PreconditionFailed", "ConditionNotMet", "BlobAlreadyExists"})
# An upload that somebody else completed, aborted or wrote a part of, or whose blocks were dropped: to be begun anew.
_GONE_CODES = frozenset({"NoSuchUpload", "InvalidPart", "InvalidBlockList"})
_PLACES = {"NoSuchBucket": "bucket", "ContainerNotFound": "container"}
# s3fs makes an input error of every code that it does not know, and that would be tried again.
_BROKEN_CODES = frozenset(
    {
        *_PLACES,
        "NotImplemented",
        "InvalidArgument",
        "InvalidRequest",
        "MethodNotAllowed",
    }
)


def foreign_errors() -> tuple[type[BaseException], ...]:
    """Return every class of exception that a call to a file system may raise."""
    loaded = [getattr(sys.modules.get(module), name, None) for module, name, _ in _CLASSES]
    # botocore raises a plain ValueError for an endpoint that is no URL.
    return (OSError, asyncio.TimeoutError, ValueError, *(found for found in loaded if found is not None))


def classify(error: BaseException) -> Kind:
    """Return what an exception of a file system means."""
    code = _code(error)
    if code in _EXISTS_CODES:
        return Kind.EXISTS
    if code in _GONE_CODES:
        return Kind.MISSING
    if code in _BROKEN_CODES:
        return Kind.BROKEN
    for module, name, kind in _CLASSES:
        found = getattr(sys.modules.get(module), name, None)
        if found is not None and isinstance(error, found):
            return _by_status(error) if kind is Kind.BROKEN else kind
    return _classify_os_error(error) if isinstance(error, OSError) else Kind.BROKEN


def describe(error: BaseException | None) -> str:
    """Name a failure without its text, which may repeat URLs and credentials."""
    code = _code(error)
    if code:
        return code
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__} ({errno.errorcode.get(error.errno, error.errno)})"
    status = _status(error)
    return f"{type(error).__name__} ({status})" if status else type(error).__name__


def failure(kind: Kind, error: BaseException, where: str) -> StorageError:
    """Return the storage error for a failure that no retry mends."""
    if kind is Kind.DENIED:
        return StoreDeniedError(
            f"the store {where} refused permission: {describe(error)}",
            hint="check the credentials in the environment, and what they allow",
        )
    code = _code(error)
    if code in _PLACES:
        return NoPlaceError(where, _PLACES[code], code)
    text = f"the store {where} failed: {describe(error)}"
    if kind is Kind.FULL:
        return OutOfSpaceError(text, hint="free some space in the store")
    return StoreUnavailableError(text, hint="check the store's URL and options")


def _classify_os_error(error: OSError) -> Kind:
    if isinstance(error, FileExistsError):
        return Kind.EXISTS
    if isinstance(error, FileNotFoundError):
        return Kind.MISSING
    if isinstance(error, PermissionError) or error.errno in DENIED:
        return Kind.DENIED
    if error.errno in FULL:
        return Kind.FULL
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _TRANSIENT_ERRNO:
        return Kind.TRANSIENT
    if error.errno is None and str(error).startswith("Forbidden: "):
        # gcsfs has no better word for 403.
        return Kind.DENIED
    return Kind.BROKEN


def _by_status(error: BaseException) -> Kind:
    status = _status(error)
    if status in (401, 403):
        return Kind.DENIED
    if status in (408, 429) or status >= 500:
        return Kind.TRANSIENT
    if status in (409, 412):
        return Kind.EXISTS
    # Google's word for a session that has ended is 410.
    return Kind.MISSING if status in (404, 410) else Kind.BROKEN


def _status(error: BaseException | None) -> int:
    """Return the HTTP status that gcsfs and Azure's client keep in their exceptions, 0 if there is none."""
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int | str) and str(value).isdigit() and len(str(value)) == 3:
            return int(value)
    return 0


def _code(error: BaseException | None) -> str:
    """Return the code in a server's reply: s3fs keeps it in the cause of its own exception, Azure in its own."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        code = getattr(error, "error_code", None)
        if code is not None:
            return str(getattr(code, "value", code))
        error = error.__cause__
    return ""
