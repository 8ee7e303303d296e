"""What lies at a path: files, and the tensors in them, read no further than their headers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import MissingFileError, StorageError, UnsafePathError
from fusery.storage.failures import os_failures
from fusery.storage.folder import scan
from fusery.storage.safetensors import BASE_HEADER_LIMIT, HOLLOW, read_header

from ..gguf.header import MAGIC
from ..gguf.header import read_header as read_gguf_header
from .archive_kind import archive_kind
from .views import View, header_digest, safetensors_views

if TYPE_CHECKING:
    from ..workspace import Workspace


_PICKLED = 1 << 10
"""Bytes from which a pickle may hold weights."""


@dataclass(slots=True)
class Weights:
    """A file of tensors.

    Attributes:
        path: relative to what was asked about.
        file: where it lies.
        views: its tensors.
        header: digest of what comes before them; None of a GGUF file, which has gaps.
        texts: what its metadata say of where it came from.
        form: `safetensors` or `gguf`.
    """

    path: str
    file: Path
    views: list[View]
    header: Digest | None
    texts: dict[str, str]
    form: str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found: its path relative to what was asked about, and where it lies."""

    path: str
    file: Path
    size: int


@dataclass(slots=True)
class Found:
    """What lies at a path.

    Attributes:
        kind: `folder`, `archive`, `safetensors`, `gguf` or `file`.
        files: all there are; the archive itself is the first of an archive's.
        weights: those with tensors.
        problems: what could not be read, one sentence each.
    """

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
    """Weights that may be one model or one adapter.

    Attributes:
        path: of the file or the folder, relative to what was asked about; `.` if it is the only unit.
        is_adapter: they are the factors of an adapter.
        weights: the files.
    """

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


def look_at(path: Path) -> Found:
    """Return what lies at a path; of an archive no more than that it is one: `unpacked` looks into it.

    Raises:
        MissingFileError: there is nothing.
        FormatError: it is a damaged safetensors or GGUF file.
        UnsafePathError: a folder holds something else than plain files, or too much.
    """
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
    return Found("archive", [own]) if archive_kind(real) else _file(own)


@contextmanager
def unpacked(workspace: Workspace, archive: Found) -> Iterator[Found]:
    """Yield an archive with what is in it, for as long as that is looked at.

    Raises:
        FormatError: it is damaged.
        UnsafePathError: it holds something else than plain files, or too much.
    """
    from ..records.scratch import scratch_folder
    from .archives import unpack

    (own,) = archive.files
    with scratch_folder(workspace) as folder:
        unpack(own.file, archive_kind(own.file) or "tar", folder)
        inside = _folder(folder)
        yield Found("archive", [own, *inside.files], inside.weights, inside.problems)


def _folder(real: Path) -> Found:
    found = Found("folder", [FoundFile(file.path, file.real, file.size) for file in scan(real)])
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


def _file(file: FoundFile) -> Found:
    weights = _weights(file)
    if weights is None:
        return Found("file", [file], problems=list(_unread(file)))
    return Found(weights.form, [file], [weights])


def _weights(file: FoundFile) -> Weights | None:
    """Return a file's tensors, None where its name and its first bytes say that it has none.

    Raises:
        FormatError: it is a damaged one.
    """
    with os_failures(f"read {file.path}", near=file.file):
        with file.file.open("rb") as opened:
            start = opened.read(16)
            _refuse_hollow(file, os.fstat(opened.fileno()))
        if start.startswith(MAGIC):
            from .gguf_views import gguf_texts, gguf_views

            gguf = read_gguf_header(file.file)
            texts = gguf_texts(gguf, "fusery.") | gguf_texts(gguf, "general.")
            return Weights(file.path, file.file, gguf_views(file.file, gguf), None, texts, "gguf")
    if not (file.path.endswith(".safetensors") or _looks_like_safetensors(start, file.size)):
        return None
    header = read_header(file.file, limit=BASE_HEADER_LIMIT)
    texts = {key: text[:1000] for key, text in list(header.metadata.items())[:1000]}
    views = safetensors_views(file.file, header)
    with os_failures(f"read {file.path}", near=file.file):
        digest = header_digest(file.file, header.data_start)
    return Weights(file.path, file.file, views, digest, texts, "safetensors")


def _unread(file: FoundFile) -> Iterator[str]:
    """Yield why a file of weights is not read: a pickle runs code when it is loaded, and is never opened here."""
    if file.size > _PICKLED and file.path.endswith((".bin", ".pt", ".pth", ".ckpt")):
        with os_failures(f"read {file.path}", near=file.file), file.file.open("rb") as opened:
            start = opened.read(4)
        if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            yield f"{file.path} is a pickle, which runs code when it is loaded: save it as safetensors where you trust its origin"


def _refuse_hollow(file: FoundFile, found: os.stat_result) -> None:
    """Refuse what is nearly all holes: it costs nothing to make, and hours to hash.

    Raises:
        UnsafePathError: it is that.
    """
    # Systems that know no blocks, or keep files elsewhere, may say zero: what is of a usual size is not asked about.
    if file.size > HOLLOW and getattr(found, "st_blocks", file.size) * 512 < file.size // 16:
        raise UnsafePathError(f"of the {file.size:,} bytes of {file.path} nearly all are holes")


def _looks_like_safetensors(start: bytes, size: int) -> bool:
    """Tell whether a file under another name begins as one: a length that fits, and an object of JSON."""
    length = int.from_bytes(start[:8], "little")
    return (
        len(start) > 9 and start[8:10] in (b'{"', b"{ ") and 2 <= length <= min(size - 8, BASE_HEADER_LIMIT)
    )
