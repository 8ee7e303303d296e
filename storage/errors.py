"""The errors of fusery's storage layer, the base class of all of fusery's errors, and text for their messages."""

from __future__ import annotations

import shlex
from os import PathLike
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
    """A store, a blob or a file is invalid."""


class StoreUnavailableError(StorageError):
    """The store did not answer, or reported an error."""


class StoreDeniedError(StorageError):
    """The store or the file system refused permission."""

    code = "permission_denied"


class OutOfSpaceError(StorageError):
    """The disk or the store is full."""


class BlobMissingError(StorageError):
    """A blob is not in the store."""


class BlobCorruptError(StorageError):
    """The bytes do not match the expected digest or size."""


class StoreMismatchError(StorageError):
    """The store belongs to another registry, or has an unknown layout."""


class UnsafePathError(StorageError):
    """A path leaves its root, or is not a plain file or folder."""


class MissingFileError(StorageError):
    """An input file or folder does not exist, or cannot be read."""

    code = "not_found"


class FormatError(StorageError):
    """A file is not in the format that its name or header declares."""

    code = "bad_format"


def visible(text: str) -> str:
    """Return text with control and direction characters escaped, except line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def typed(place: str | PathLike[str]) -> str:
    """Return a path as it is typed in a shell: quoted where it has to be, and never an option."""
    text = str(place)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
