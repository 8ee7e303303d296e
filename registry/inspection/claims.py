"""What a thing says of itself: `fusery.json`, an exported adapter's metadata, keys in weight files, an adapter's configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import read_object

from ..record import Record, described
from .files import Found, FoundFile

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_TEXT = 300
_MOST_FILES = 10_000


@dataclass(slots=True)
class Claim(Record):
    """Something that a thing says it is.

    Attributes:
        files: what the files must be, by their paths from the top, where that is listed.
        truth: whether that is so; None where it cannot be told.
        reason: why, one sentence.
    """

    source: str = described("the file that says so")
    kind: str = described("`fused`, `adapter` or `base`")
    name: str | None = described("its name there")
    digest: str | None = described("its digest, or the key of a fused model")
    files: Mapping[str, str] = field(default_factory=dict)
    truth: bool | None = None
    reason: str = ""
    KEYS: ClassVar[tuple[str, ...]] = ("source", "kind", "name", "digest", "true", "reason")

    @property
    def true(self) -> bool | None:
        """Whether that is so; None where it cannot be told."""
        return self.truth


def claims_of(found: Found) -> list[Claim]:
    """Return what the files that were found say; what cannot be read is one of the problems."""
    claims: list[Claim] = []
    readers: Mapping[str, Callable[[Mapping[str, Any], FoundFile], Iterator[Claim]]] = {
        "fusery.json": _bundle,
        "adapter_metadata.json": _exported,
        "adapter_config.json": _configured,
    }
    for file in found.files:
        read = readers.get(PurePosixPath(file.path).name)
        if read is None or file.path.count("/") > 3:
            continue
        try:
            claims += read(read_object(file.file), file)
        except StorageError as error:
            found.problems.append(error.message)
    for weights in found.weights:
        claims += _keyed(weights.path, weights.texts)
    return _once(claims)


def _bundle(document: Mapping[str, Any], file: FoundFile) -> Iterator[Claim]:
    if document.get("format") != "fusery.bundle.v1":
        return
    top = file.path.removesuffix("fusery.json")
    provenance = _object(document.get("provenance"))
    model = _text(document.get("model")) or "."
    listed = _files(document.get("files"), top if model == "." else f"{top}{model}/")
    key, digest = _digest(provenance.get("key")), _digest(provenance.get("digest"))
    if key or digest:
        yield Claim(file.path, "fused", _text(document.get("name")), key or digest, listed)
    base = _object(provenance.get("base"))
    adapters = document.get("adapters")
    for entry in adapters[:1000] if isinstance(adapters, list) else []:
        adapter = _object(entry)
        if told := _digest(adapter.get("digest")):
            own = _files(adapter.get("files"), f"{top}{_text(adapter.get('path')) or ''}/")
            yield Claim(file.path, "adapter", _text(adapter.get("name")), told, own)
    if not key and not adapters and (told := _digest(base.get("digest"))):
        yield Claim(file.path, "base", _text(base.get("name")), told, listed)


def _exported(document: Mapping[str, Any], file: FoundFile) -> Iterator[Claim]:
    inner = _object(document.get("fusery"))
    if inner.get("format") == "fusery.export.v1" and (told := _digest(inner.get("digest"))):
        top = file.path.removesuffix("adapter_metadata.json")
        yield Claim(file.path, "adapter", _text(inner.get("name")), told, _files(inner.get("files"), top))


def _configured(document: Mapping[str, Any], file: FoundFile) -> Iterator[Claim]:
    name = _text(document.get("base_model_name_or_path")) or _text(document.get("model"))
    if name:
        # A path of somebody's machine says no more than its last part.
        yield Claim(file.path, "base", name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name, None)


def _keyed(path: str, texts: Mapping[str, str]) -> Iterator[Claim]:
    names = [texts[key] for key in ("fusery.adapter.name", "general.name") if texts.get(key)]
    name = _text(names[0]) if names else None
    if key := _digest(texts.get("fusery.key")):
        yield Claim(path, "fused", name, key)
    elif digest := _digest(texts.get("fusery.adapter.digest")):
        yield Claim(path, "adapter", name, digest)
    elif digest := _digest(texts.get("fusery.base.digest")):
        yield Claim(path, "base", _text(texts.get("fusery.base.name")), digest)


def _once(claims: list[Claim]) -> list[Claim]:
    """Drop what several weight files say alike."""
    seen: dict[tuple[str, str | None, str], Claim] = {}
    for claim in claims:
        place = claim.source if not claim.digest or claim.files else "weights"
        seen.setdefault((claim.kind, claim.digest or claim.name, place), claim)
    return list(seen.values())


def _files(value: Any, top: str) -> dict[str, str]:
    found = {}
    for entry in value[:_MOST_FILES] if isinstance(value, list) else []:
        file = _object(entry)
        path, digest = _text(file.get("path")), _digest(file.get("sha256"))
        if path and digest:
            found[f"{top}{path}"] = digest
    return found


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value[:_MOST_TEXT] if isinstance(value, str) and value else None


def _digest(value: Any) -> str | None:
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else None
