"""Files to be verified, hidden ones and links included, and what a bundle, an exported adapter or a GGUF file claims to be.

Claims prove nothing: they show accidents, and say which files a signature of a model or an adapter is about.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from fusery.storage.copying import pump, reading
from fusery.storage.digest import Digest, parse_digest
from fusery.storage.errors import FuseryError, MissingFileError, StorageError
from fusery.storage.failures import opened, os_failures
from fusery.storage.jsonfile import parse_json
from fusery.storage.manifest import FileEntry, Manifest

from ..adapters.files import METADATA
from ..documents import (
    BUNDLE_FORMAT,
    CHECKSUM,
    FORMAT,
    KEY,
    RECORD,
    checksum_of,
    checksum_of_metadata,
    record_bytes,
)
from ..record import Record, described


@dataclass(frozen=True, slots=True)
class FileProblem(Record):
    """Something that differs."""

    code: str = described("its kind")
    path: str = described("the file it is about, within what is verified")
    message: str = described("the problem, in one sentence")


DEEPEST = 64
"""Folders inside each other."""
Progress = Callable[[int, int], None]


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
        if self.problems:
            return None
        try:
            return Manifest.of(self.files.values())
        except StorageError:
            return None


def look(path: Path, *, but: Path | None = None, progress: Progress | None = None) -> HashedFiles:
    """Hash every file of a folder, or a single file; no link is followed within it.

    Args:
        but: a file that is left out: the signature, where it lies inside.
        progress: called with the bytes done and the total.
    """
    with os_failures(f"read {path}", near=path):
        real = path.resolve()
        if not real.is_dir() and not real.is_file():
            raise MissingFileError(
                f"{path} is neither a folder nor a file", hint="name a bundle or a file of one"
            )
        found = HashedFiles(real, lone=real.is_file())
        left_out = but.resolve() if but is not None else None
        names = [real.name] if found.lone else list(_names(real, "", found.problems, DEEPEST))
        wanted = [name for name in names if _place(found, name) != left_out]
        total, done = sum(_place(found, name).lstat().st_size for name in wanted), 0
        for name in sorted(wanted):
            entry = _hashed(found, name)
            if entry is not None:
                found.files[name] = entry
                done += entry.size
            if progress is not None:
                progress(done, total)
    return found


def _place(found: HashedFiles, name: str) -> Path:
    return found.path if found.lone else found.path / name


def _names(folder: Path, prefix: str, problems: list[FileProblem], deep: int) -> Iterator[str]:
    """Yield the paths of regular files below a folder, and note what is something else."""
    if deep == 0:
        problems.append(
            FileProblem("too_deep", prefix, f"{prefix[:100]}… lies deeper than {DEEPEST} folders")
        )
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
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


def _hashed(found: HashedFiles, name: str) -> FileEntry | None:
    place = _place(found, name)
    try:
        with reading(place) as source, os_failures(f"read {place}", near=place):
            digest, size = pump(source.fd, None)
    except StorageError as error:
        found.problems.append(FileProblem("unreadable", name, f"{name} cannot be read: {error.message}"))
        return None
    return FileEntry(name, size, digest)


_LARGEST = 16 << 20


@dataclass(slots=True)
class SignedClaim(Record):
    """What something says of itself.

    Attributes:
        name: of the model, adapter or bundle.
        digest: of the model or the adapter.
        target: of the bundle.
        files: what it lists, by path; the document itself is not among them.
        complete: it lists every file there should be.
        parts: what somebody may have signed of it: prefix of the paths, and digest by path.
        problems: with the document itself.
    """

    kind: str = described("`bundle`, `adapter` or `gguf`")
    document: str = described("the file that says it")
    name: str | None = None
    digest: str | None = None
    target: str | None = None
    files: dict[str, FileEntry] = field(default_factory=dict)
    complete: bool = False
    parts: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    problems: list[FileProblem] = field(default_factory=list)
    KEYS: ClassVar[tuple[str, ...]] = ("kind", "document", "name", "target", "digest", "complete")


def read_claim(path: Path) -> SignedClaim | None:
    """Return what a folder or a file says of itself, None if it says nothing that fusery wrote."""
    if path.is_file():
        return _gguf(path)
    if (path / RECORD).is_file():
        return _document(path / RECORD, "bundle", read_record)
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
        why = error.message if isinstance(error, StorageError) else "it is not what fusery writes"
        claim.files.clear()
        claim.parts.clear()
        claim.problems.append(_changed(path.name, why))
    return claim


def _changed(name: str, why: str) -> FileProblem:
    return FileProblem("changed", name, f"{name} is not as it was written: {why[:200]}")


def read_record(data: bytes, claim: SignedClaim) -> None:
    """Take what `fusery.json` says."""
    document = parse_json(data, RECORD)
    if document["format"] != BUNDLE_FORMAT:
        raise ValueError("another format")
    _check(claim, document, data, document.get(CHECKSUM), checksum_of, record_bytes)
    claim.name, claim.target = _text(document["name"]), _text(document["target"])
    listed = {"": document.get("contents", [])}
    if document["model"] is not None:
        claim.digest = _text(document["digest"])
        prefix = _prefix(document["model"])
        _take_part(claim, prefix, document["files"], claim.digest)
        listed.setdefault(prefix, []).extend(document["files"])
    for adapter in document["adapters"]:
        prefix = _prefix(adapter["path"])
        _take_part(claim, prefix, adapter["files"], None)
        listed.setdefault(prefix, []).extend(adapter["files"])
    claim.complete = "contents" in document
    for prefix, rows in listed.items():
        _take(claim, prefix, rows)


def _read_export_metadata(data: bytes, claim: SignedClaim) -> None:
    document = parse_json(data, METADATA)
    inner = document.get(KEY) if isinstance(document, Mapping) else None
    if not isinstance(inner, Mapping) or inner.get("format") != FORMAT:
        return
    from ..documents import document_bytes

    _check(claim, document, data, inner.get(CHECKSUM), checksum_of_metadata, document_bytes)
    claim.name, claim.digest = _text(inner["name"]), _text(inner["digest"])
    claim.target = f"adapter-{_text(inner['form'])}"
    claim.complete = "contents" in inner
    own = [*inner["files"], *inner.get("tokenizer", [])]
    _take(claim, "", [*own, *inner.get("contents", [])])
    registered = {entry.path: str(entry.sha256) for entry in _entries("", own)}
    if inner["metadata"] is not None:
        registered[METADATA] = sha256(_text(inner["metadata"], longest=_LARGEST).encode()).hexdigest()
    claim.parts.append(("", registered))


def _check(
    claim: SignedClaim,
    document: Any,
    data: bytes,
    checksum: Any,
    computed: Callable[[Mapping[str, Any]], str],
    written: Callable[[Mapping[str, Any]], bytes],
) -> None:
    """Note a document that is not byte for byte what was written; those of before there were checksums have none."""
    if checksum is not None and checksum != computed(document):
        claim.problems.append(_changed(claim.document, "its checksum is another"))
    elif checksum is not None and written(document) != data:
        claim.problems.append(_changed(claim.document, "it says the same in other characters"))


def _take(claim: SignedClaim, prefix: str, rows: Any) -> None:
    for entry in _entries(prefix, rows):
        known = claim.files.setdefault(entry.path, entry)
        if known != entry:
            claim.problems.append(_changed(claim.document, f"it lists {entry.path} twice, differently"))


def _take_part(claim: SignedClaim, prefix: str, rows: Any, digest: str | None) -> None:
    entries = _entries("", rows)
    claim.parts.append((prefix, {entry.path: str(entry.sha256) for entry in entries}))
    if digest is not None and Manifest.of(entries).digest != digest:
        claim.problems.append(_changed(claim.document, "its digest is not that of its list of files"))


def _entries(prefix: str, rows: Any) -> list[FileEntry]:
    return [
        FileEntry(prefix + _text(row["path"]), int(row["size"]), parse_digest(row["sha256"])) for row in rows
    ]


def _prefix(folder: Any) -> str:
    return "" if folder == "." else f"{_text(folder)}/"


def _text(value: Any, longest: int = 1000) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise TypeError("no text")
    return value


def _gguf(path: Path) -> SignedClaim | None:
    """Return what a GGUF file's keys say; they hold the digest of what it was made from, and none of the file."""
    from ..models.gguf_header import MAGIC, read_header

    with opened(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
    claim = SignedClaim("gguf", path.name)
    try:
        keys = read_header(path).metadata
    except FuseryError as error:
        claim.problems.append(
            FileProblem("changed", path.name, f"{path.name} is damaged: {error.message[:200]}")
        )
        return claim
    if not any(key.startswith("fusery.") for key in keys):
        return None
    claim.name = str(keys.get("general.name", ""))[:300] or None
    digest = keys.get("fusery.digest") or keys.get("fusery.adapter.digest")
    claim.digest = Digest(str(digest)[:64]) if digest else None
    return claim
