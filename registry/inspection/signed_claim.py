"""What a bundle, an exported adapter or a file says of itself: which files it has and what they were made from.

Nothing here proves anything: whoever changes a file can change what is said of it.  It shows accidents, names the
thing, and says which files a signature of its model or of its adapter is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from fusery.storage.digest import Digest, parse_digest
from fusery.storage.errors import FuseryError, StorageError
from fusery.storage.jsonfile import parse_json
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.opening import opened

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
from .problem import Problem

_LARGEST = 16 << 20


@dataclass(slots=True)
class Claim(Record):
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
    problems: list[Problem] = field(default_factory=list)
    KEYS: ClassVar[tuple[str, ...]] = ("kind", "document", "name", "target", "digest", "complete")


def read_claim(path: Path) -> Claim | None:
    """Return what a folder or a file says of itself, None if it says nothing that fusery wrote."""
    if path.is_file():
        return _gguf(path)
    if (path / RECORD).is_file():
        return _document(path / RECORD, "bundle", read_record)
    if (path / METADATA).is_file():
        claim = _document(path / METADATA, "adapter", _read_export_metadata)
        return claim if claim.name is not None or claim.problems else None
    return None


def _document(path: Path, kind: str, read: Callable[[bytes, Claim], None]) -> Claim:
    claim = Claim(kind, path.name)
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


def _changed(name: str, why: str) -> Problem:
    return Problem("changed", name, f"{name} is not as it was written: {why[:200]}")


def read_record(data: bytes, claim: Claim) -> None:
    """Take what `fusery.json` says.

    Raises:
        StorageError, ValueError, TypeError, KeyError, AttributeError: it is not one.
    """
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


def _read_export_metadata(data: bytes, claim: Claim) -> None:
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
    claim: Claim,
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


def _take(claim: Claim, prefix: str, rows: Any) -> None:
    for entry in _entries(prefix, rows):
        known = claim.files.setdefault(entry.path, entry)
        if known != entry:
            claim.problems.append(_changed(claim.document, f"it lists {entry.path} twice, differently"))


def _take_part(claim: Claim, prefix: str, rows: Any, digest: str | None) -> None:
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


def _gguf(path: Path) -> Claim | None:
    """Return what a GGUF file's keys say; they hold the digest of what it was made from, and none of the file."""
    from ..gguf.header import MAGIC, read_header

    with opened(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
    claim = Claim("gguf", path.name)
    try:
        keys = read_header(path).metadata
    except FuseryError as error:
        claim.problems.append(Problem("changed", path.name, f"{path.name} is damaged: {error.message[:200]}"))
        return claim
    if not any(key.startswith("fusery.") for key in keys):
        return None
    claim.name = str(keys.get("general.name", ""))[:300] or None
    digest = keys.get("fusery.digest") or keys.get("fusery.adapter.digest")
    claim.digest = Digest(str(digest)[:64]) if digest else None
    return claim
