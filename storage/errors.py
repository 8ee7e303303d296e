"""The errors of fusery's storage layer, and the base class of all of fusery's errors."""

from __future__ import annotations

from typing import ClassVar


class FuseryError(Exception):
    """A failure in one sentence, with a stable `code` (by default the class's name) and a `hint` what to do."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls):
            name = cls.__name__.removesuffix("Error")
            cls.code = "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = _masked(message)
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is None else _masked(hint)


def _masked(text: str) -> str:
    """Return a sentence without what URLs in it have of passwords and tokens; the user gave them, and knows them."""
    if ":/" not in text:
        return text
    from .secrets import masked  # it costs a short command a tenth of its time

    return masked(text)


class StorageError(FuseryError):
    """Something about bytes: a store, a blob, a file or its format."""


class StoreUnavailableError(StorageError):
    """The store did not answer, or answered with a failure of its own."""


class StoreDeniedError(StorageError):
    """The store or the file system refused permission."""

    code = "permission_denied"


class OutOfSpaceError(StorageError):
    """There is no room left for what was to be written."""


class BlobMissingError(StorageError):
    """A blob that should be in the store is not."""


class BlobCorruptError(StorageError):
    """A blob's bytes do not match its digest."""


class StoreMismatchError(StorageError):
    """The store belongs to another registry, or is laid out in a way this version does not know."""


class UnsafePathError(StorageError):
    """A path leaves its root, or is not a plain file or folder."""


class MissingFileError(StorageError):
    """A file or folder the user named does not exist or cannot be read."""

    code = "not_found"


class FormatError(StorageError):
    """A file is not in the format it claims to be."""

    code = "bad_format"
