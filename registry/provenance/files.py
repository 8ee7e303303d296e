"""Files and tensors at a path, read no further than their headers, and their unverified claims of what they are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from fusery.storage.errors import MissingFileError, StorageError, UnsafePathError
from fusery.storage.failures import os_failures
from fusery.storage.folder import scan
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import BASE_HEADER_LIMIT, HOLLOW, read_header

from ..models.gguf_header import MAGIC
from ..models.gguf_header import read_header as read_gguf_header
from ..record import Record, described
from .archives import archive_kind, unpack
from .views import View, gguf_texts, gguf_views, safetensors_views

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


_PICKLED = 1 << 10
"""Bytes from which a pickle may hold weights."""


@dataclass(slots=True)
class Weights:
    """A file of tensors in the form `safetensors` or `gguf`; `texts` is what its metadata say of its origin."""

    path: str
    views: list[View]
    texts: dict[str, str]
    form: str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found: its path relative to what was asked about, and where it lies."""

    path: str
    file: Path
    size: int


@dataclass(slots=True)
class FoundFiles:
    """What lies at a path."""

    kind: str
    files: list[FoundFile]
    weights: list[Weights] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def views(self) -> list[View]:
        """All tensors."""
        return [view for weights in self.weights for view in weights.views]

    @property
    def units(self) -> list[Unit]:
        """What may be one thing each: the weights of a folder together, each adapter and each GGUF file by itself."""
        found: dict[tuple[str, str], Unit] = {}
        for weights in self.weights:
            adapter = any(_is_factor(view.name) for view in weights.views)
            alone = adapter or weights.form == "gguf"
            place = PurePosixPath(weights.path)
            key = (str(place.parent), place.name if alone else "")
            unit = found.setdefault(key, Unit(weights.path if alone else str(place.parent), adapter))
            unit.weights.append(weights)
        if len(found) == 1:
            next(iter(found.values())).path = "."
        return list(found.values())

    def place_of(self, paths: Collection[str]) -> str:
        """Return which unit these files belong to, `.` if they belong to several or none."""
        places = {unit.path for unit in self.units if any(weights.path in paths for weights in unit.weights)}
        return places.pop() if len(places) == 1 else "."


@dataclass(slots=True)
class Unit:
    """Weights that may be one model or one adapter."""

    path: str
    is_adapter: bool
    weights: list[Weights] = field(default_factory=list)

    @property
    def views(self) -> list[View]:
        """All tensors."""
        return [view for weights in self.weights for view in weights.views]


def _is_factor(name: str) -> bool:
    parts = name.lower().split(".")
    return any(part in ("lora_a", "lora_b") or part.startswith("lora_embedding") for part in parts)


def look_at(path: Path) -> FoundFiles:
    """Return what lies at a path; of an archive no more than that it is one: `unpacked` looks into it."""
    place = path.expanduser()
    with os_failures(f"read {path}", near=path):
        try:
            real = place.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError, RuntimeError):
            raise MissingFileError(f"there is no file or folder {path}", hint="check the path") from None
    if real.is_dir():
        return _folder(real)
    if not real.is_file():
        raise MissingFileError(f"{path} is no file and no folder", hint="name one")
    own = FoundFile(real.name, real, real.stat().st_size)
    return FoundFiles("archive", [own]) if archive_kind(real) else _file(own)


@contextmanager
def unpacked(workspace: Workspace, archive: FoundFiles) -> Iterator[FoundFiles]:
    """Yield an archive with what is in it, for as long as that is looked at."""
    (own,) = archive.files
    with workspace.scratch() as folder:
        unpack(own.file, archive_kind(own.file) or "tar", folder)
        inside = _folder(folder)
        yield FoundFiles("archive", [own, *inside.files], inside.weights, inside.problems)


def _folder(real: Path) -> FoundFiles:
    found = FoundFiles("folder", [FoundFile(file.path, file.real, file.size) for file in scan(real)])
    for file in found.files:
        try:
            weights = _weights(file)
            if weights is not None:
                found.weights.append(weights)
            else:
                found.problems += _unread(file)
        except StorageError as error:
            # The rest of the folder can still be told.
            found.problems.append(error.message)
    return found


def _file(file: FoundFile) -> FoundFiles:
    weights = _weights(file)
    if weights is None:
        return FoundFiles("file", [file], problems=list(_unread(file)))
    return FoundFiles(weights.form, [file], [weights])


def _weights(file: FoundFile) -> Weights | None:
    """Return a file's tensors, None where its name and its first bytes say that it has none."""
    with os_failures(f"read {file.path}", near=file.file):
        with file.file.open("rb") as opened:
            start = opened.read(16)
            _refuse_hollow(file, os.fstat(opened.fileno()))
        if start.startswith(MAGIC):
            gguf = read_gguf_header(file.file)
            texts = gguf_texts(gguf, "fusery.") | gguf_texts(gguf, "general.")
            return Weights(file.path, gguf_views(file.file, gguf), texts, "gguf")
    if not (file.path.endswith(".safetensors") or _looks_like_safetensors(start, file.size)):
        return None
    header = read_header(file.file, limit=BASE_HEADER_LIMIT)
    texts = {key: text[:1000] for key, text in list(header.metadata.items())[:1000]}
    return Weights(file.path, safetensors_views(file.file, header), texts, "safetensors")


def _unread(file: FoundFile) -> Iterator[str]:
    """Yield why a file of weights is not read: a pickle runs code when it is loaded, and is never opened here."""
    if file.size > _PICKLED and file.path.endswith((".bin", ".pt", ".pth", ".ckpt")):
        with os_failures(f"read {file.path}", near=file.file), file.file.open("rb") as opened:
            start = opened.read(4)
        if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            yield f"{file.path} is a pickle, which runs code when it is loaded: save it as safetensors where you trust its origin"


def _refuse_hollow(file: FoundFile, found: os.stat_result) -> None:
    """Refuse what is nearly all holes: it costs nothing to make, and hours to hash."""
    # Systems that know no blocks, or keep files elsewhere, may say zero: what is of a usual size is not asked about.
    if file.size > HOLLOW and getattr(found, "st_blocks", file.size) * 512 < file.size // 16:
        raise UnsafePathError(f"of the {file.size:,} bytes of {file.path} nearly all are holes")


def _looks_like_safetensors(start: bytes, size: int) -> bool:
    """Tell whether a file under another name begins as one: a length that fits, and an object of JSON."""
    length = int.from_bytes(start[:8], "little")
    return (
        len(start) > 9 and start[8:10] in (b'{"', b"{ ") and 2 <= length <= min(size - 8, BASE_HEADER_LIMIT)
    )


_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_TEXT = 300
_MOST_FILES = 10_000


@dataclass(slots=True)
class IdentityClaim(Record):
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


def claims_of(found: FoundFiles) -> list[IdentityClaim]:
    """Return what the files that were found say; what cannot be read is one of the problems."""
    claims: list[IdentityClaim] = []
    readers: Mapping[str, Callable[[Mapping[str, Any], FoundFile], Iterator[IdentityClaim]]] = {
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


def _bundle(document: Mapping[str, Any], file: FoundFile) -> Iterator[IdentityClaim]:
    if document.get("format") != "fusery.bundle.v1":
        return
    top = file.path.removesuffix("fusery.json")
    provenance = _object(document.get("provenance"))
    model = _text(document.get("model")) or "."
    listed = _files(document.get("files"), top if model == "." else f"{top}{model}/")
    key, digest = _digest(provenance.get("key")), _digest(provenance.get("digest"))
    if key or digest:
        yield IdentityClaim(file.path, "fused", _text(document.get("name")), key or digest, listed)
    base = _object(provenance.get("base"))
    adapters = document.get("adapters")
    for entry in adapters[:1000] if isinstance(adapters, list) else []:
        adapter = _object(entry)
        if told := _digest(adapter.get("digest")):
            own = _files(adapter.get("files"), f"{top}{_text(adapter.get('path')) or ''}/")
            yield IdentityClaim(file.path, "adapter", _text(adapter.get("name")), told, own)
    if not key and not adapters and (told := _digest(base.get("digest"))):
        yield IdentityClaim(file.path, "base", _text(base.get("name")), told, listed)


def _exported(document: Mapping[str, Any], file: FoundFile) -> Iterator[IdentityClaim]:
    inner = _object(document.get("fusery"))
    if inner.get("format") == "fusery.export.v1" and (told := _digest(inner.get("digest"))):
        top = file.path.removesuffix("adapter_metadata.json")
        yield IdentityClaim(
            file.path, "adapter", _text(inner.get("name")), told, _files(inner.get("files"), top)
        )


def _configured(document: Mapping[str, Any], file: FoundFile) -> Iterator[IdentityClaim]:
    name = _text(document.get("base_model_name_or_path")) or _text(document.get("model"))
    if name:
        # A path of somebody's machine says no more than its last part.
        yield IdentityClaim(
            file.path, "base", name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name, None
        )


def _keyed(path: str, texts: Mapping[str, str]) -> Iterator[IdentityClaim]:
    names = [texts[key] for key in ("fusery.adapter.name", "general.name") if texts.get(key)]
    name = _text(names[0]) if names else None
    if key := _digest(texts.get("fusery.key")):
        yield IdentityClaim(path, "fused", name, key)
    elif digest := _digest(texts.get("fusery.adapter.digest")):
        yield IdentityClaim(path, "adapter", name, digest)
    elif digest := _digest(texts.get("fusery.base.digest")):
        yield IdentityClaim(path, "base", _text(texts.get("fusery.base.name")), digest)


def _once(claims: list[IdentityClaim]) -> list[IdentityClaim]:
    """Drop what several weight files say alike."""
    seen: dict[tuple[str, str | None, str], IdentityClaim] = {}
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
