"""Manifests: the files of a base model, an adapter or a fused artifact, as path, size and digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .digest import Digest, digest_file, digest_json
from .errors import FormatError, UnsafePathError
from .failures import DigestMismatchError

FORMAT = "fusery.manifest.v1"


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file of a manifest; the JSON Schemas of commands have these descriptions.

    Attributes:
        path: POSIX path relative to the artifact's folder.
        size: number of bytes.
        sha256: digest of the bytes.
    """

    path: str
    size: int
    sha256: Digest

    def to_dict(self) -> dict[str, str | int]:
        """Return the entry as `--json` prints it."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


def safe_relative_path(text: str) -> str:
    """Return `text` if it is a plain relative POSIX path that stays inside its root."""
    parts = text.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and len(text) <= 512
    if not plain or "\\" in text or not text.isprintable() or PurePosixPath(text).is_absolute():
        raise UnsafePathError(f"{text[:80]!r} is not a plain path inside its folder")
    return text


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file that is to be stored as a blob of a generation, and must have the size and the digest of the entry."""

    path: Path
    entry: FileEntry
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one artifact, sorted by path, each path once; equal manifests have equal digests."""

    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, files: Iterable[FileEntry]) -> Manifest:
        """Build a manifest from entries in any order."""
        ordered = tuple(sorted(files))
        paths = [safe_relative_path(entry.path) for entry in ordered]
        if len(set(paths)) != len(paths):
            raise FormatError("a manifest names the same path twice")
        return cls(ordered)

    @property
    def digest(self) -> Digest:
        """The digest of the canonical JSON: the identity of the artifact."""
        return digest_json({"format": FORMAT, "files": [entry.to_dict() for entry in self.files]})

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def __iter__(self) -> Iterator[FileEntry]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def file_entry(path: str, file: Path) -> FileEntry:
    """Return the manifest's entry for a file, hashed."""
    digest, size = digest_file(file)
    return FileEntry(path, size, digest)


def manifest_of(files: Mapping[str, Path]) -> Manifest:
    """Return the manifest of files by name."""
    return Manifest.of(file_entry(name, path) for name, path in files.items())


def require_size(subject: Path, expected: FileEntry | None, size: int) -> None:
    """Refuse a file whose size is not what was promised, before its bytes are read: there may be no end of them."""
    if expected is not None and size != expected.size:
        sizes = f"{expected.size} bytes", f"{size} bytes"
        raise DigestMismatchError(str(subject), expected.sha256, *sizes, hint=_CHANGED)


_CHANGED = "the file changed since it was looked at; run the command again"


def require_expected(subject: Path, expected: FileEntry | None, digest: Digest, size: int) -> None:
    """Refuse a file that is not what was promised."""
    if expected is None:
        return
    require_size(subject, expected, size)
    if digest != expected.sha256:
        raise DigestMismatchError(str(subject), expected.sha256, expected.sha256, digest, hint=_CHANGED)
