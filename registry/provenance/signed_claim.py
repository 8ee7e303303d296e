"""Hash every file to be verified, hidden ones too, and read a folder's own list of files, which shows accidents only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fusery.storage.copying import pump, reading
from fusery.storage.digest import Digest, parse_digest
from fusery.storage.errors import MissingFileError, StorageError
from fusery.storage.failures import opened, os_failures
from fusery.storage.jsonfile import parse_json
from fusery.storage.manifest import FileEntry, Manifest

from .. import documents
from ..adapters import METADATA
from ..record import Record, described

DEEPEST = 64  # folders inside each other
_LARGEST = 16 << 20


class FileProblem(Record, kw_only=False):
    """A difference."""

    code: str = described("its kind")
    path: str = described("the file it is about, within what is verified")
    message: str = described("the problem, in one sentence")


@dataclass(slots=True)
class HashedFiles:
    """Files by path and digest."""

    path: Path
    lone: bool
    files: dict[str, FileEntry] = field(default_factory=dict)
    problems: list[FileProblem] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest | None:
        """The files as a manifest; None where something has no place in one."""
        try:
            return None if self.problems else Manifest.of(self.files.values())
        except StorageError:
            return None


def hash_all(
    path: Path,
    *,
    but: Path | None = None,
    digests: Mapping[str, Digest],
    progress: Callable[[int, int], None] | None = None,
) -> HashedFiles:
    """Hash the files of a folder without the signature `but`, or a single file; follow no links, and take known digests."""
    with os_failures(f"read {path}", near=path):
        real = path.resolve()
        if not real.is_dir() and not real.is_file():
            message = f"{path} is neither a folder nor a file"
            raise MissingFileError(message, hint="name a bundle or a file of one")
        files = HashedFiles(real, lone=real.is_file())
        names = [real.name] if files.lone else _names(real, "", files.problems, DEEPEST)
        places = {name: real if files.lone else real / name for name in names}
        left_out = but.resolve() if but is not None else None
        sizes = {name: place.lstat().st_size for name, place in places.items() if place != left_out}
        done = 0
        for name, size in sorted(sizes.items()):
            digest = digests.get(name)
            entry = FileEntry(name, size, digest) if digest else _hashed(files, name, places[name])
            if entry is not None:
                files.files[name] = entry
                done += entry.size
            if progress is not None:
                progress(done, sum(sizes.values()))
    return files


def _names(folder: Path, prefix: str, problems: list[FileProblem], deep: int) -> Iterator[str]:
    """Yield the paths of regular files below a folder, and note everything else."""
    if deep == 0:
        message = f"{prefix[:100]}… lies deeper than {DEEPEST} folders"
        problems.append(FileProblem("too_deep", prefix, message))
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda dir_entry: dir_entry.name):
            name = f"{prefix}{entry.name}"
            if entry.is_symlink():
                target = os.readlink(entry.path)
                problems.append(FileProblem("link", name, f"{name} is a symbolic link, to {target[:200]}"))
            elif entry.is_dir(follow_symlinks=False):
                yield from _names(Path(entry.path), f"{name}/", problems, deep - 1)
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                yield name
            else:
                problems.append(FileProblem("special", name, f"{name} is neither a file nor a folder"))


def _hashed(hashed_files: HashedFiles, name: str, place: Path) -> FileEntry | None:
    try:
        with reading(place) as source, os_failures(f"read {place}", near=place):
            digest, size = pump(source.fd, None)
    except StorageError as error:
        message = f"{name} cannot be read: {error.message}"
        hashed_files.problems.append(FileProblem("unreadable", name, message))
        return None
    return FileEntry(name, size, digest)


class SignedClaim(Record, kw_only=False, frozen=False):
    """The claims of a folder: `files` it lists by path, all if `complete`; `problems` are with the document itself."""

    kind: str = described("`bundle` or `adapter`")
    document: str = described("the file with the claims")
    name: str | None = described("name of the adapter, or of the bundle's model", default=None)
    digest: str | None = described("digest of the listed files", default=None)
    target: str | None = described("target of the bundle", default=None)
    files: dict[str, FileEntry] = field(default_factory=dict)
    complete: bool = described("all files are listed", default=False)
    problems: list[FileProblem] = field(default_factory=list)
    KEYS: ClassVar[tuple[str, ...]] = ("kind", "document", "name", "target", "digest", "complete")

    def note(self, why: str) -> None:
        """Add a problem with the document."""
        message = f"{self.document} is not as it was written: {why[:200]}"
        self.problems.append(FileProblem("changed", self.document, message))

    def add(self, prefix: str, rows: Any) -> list[FileEntry]:
        """Add listed files below a folder, and return them as listed."""
        values = ((_text(row["path"]), int(row["size"]), parse_digest(row["sha256"])) for row in rows)
        entries = [FileEntry(*value) for value in values]
        for entry in entries:
            placed = FileEntry(prefix + entry.path, entry.size, entry.sha256)
            if self.files.setdefault(placed.path, placed) != placed:
                self.note(f"it lists {placed.path} twice, differently")
        return entries


def read_claim(path: Path) -> SignedClaim | None:
    """Return the claims of a folder, None if it has none that fusery wrote."""
    if (path / documents.RECORD).is_file():
        return _document(path / documents.RECORD, "bundle", read_record)
    if (path / METADATA).is_file():
        claim = _document(path / METADATA, "adapter", _read_export_metadata)
        return claim if claim.name is not None or claim.problems else None
    return None


def _document(path: Path, kind: str, read: Callable[[bytes, SignedClaim], None]) -> SignedClaim:
    claim = SignedClaim(kind, path.name)
    try:
        with opened(path) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        read(data, claim)
    except (StorageError, ValueError, TypeError, KeyError, AttributeError) as error:
        claim.files.clear()
        claim.note(error.message if isinstance(error, StorageError) else "it is not what fusery writes")
    return claim


def read_record(data: bytes, claim: SignedClaim) -> None:
    """Add the claims of `fusery.json`."""
    document = parse_json(data, documents.RECORD)
    if document["format"] != documents.BUNDLE_FORMAT:
        raise ValueError("another format")
    checksum = document.get(documents.CHECKSUM)
    _check(claim, checksum, documents.checksum_of(document), documents.record_bytes(document), data)
    claim.name, claim.target = _text(document["name"]), _text(document["target"])
    claim.add("", document.get("contents", []))
    if document["model"] is not None:
        claim.digest = _text(document["digest"])
        entries = claim.add(_prefix(document["model"]), document["files"])
        if Manifest.of(entries).digest != claim.digest:
            claim.note("its digest is not that of its list of files")
    for adapter in document["adapters"]:
        claim.add(_prefix(adapter["path"]), adapter["files"])
    claim.complete = "contents" in document


def _read_export_metadata(data: bytes, claim: SignedClaim) -> None:
    document = parse_json(data, METADATA)
    inner = document.get(documents.KEY) if isinstance(document, Mapping) else None
    if not isinstance(inner, Mapping) or inner.get("format") != documents.FORMAT:
        return
    checksum, computed = inner.get(documents.CHECKSUM), documents.checksum_of_metadata(document)
    _check(claim, checksum, computed, documents.document_bytes(document), data)
    claim.name, claim.digest = _text(inner["name"]), _text(inner["digest"])
    claim.target = f"adapter-{_text(inner['form'])}"
    claim.complete = "contents" in inner
    claim.add("", [*inner["files"], *inner.get("tokenizer", []), *inner.get("contents", [])])


def _check(claim: SignedClaim, checksum: Any, computed: str, written: bytes, data: bytes) -> None:
    """Note a document that is not byte for byte what was written; one without a checksum is not compared."""
    if checksum is not None and (checksum != computed or written != data):
        claim.note("its checksum is another, or it has the same values in other characters")


def _prefix(folder: Any) -> str:
    return "" if folder == "." else f"{_text(folder)}/"


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise TypeError("no text")
    return value
