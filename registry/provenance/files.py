"""Files and tensors at a path, read no further than their headers, and their unverified claims."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fusery.storage.digest import Digest
from fusery.storage.errors import MissingFileError, StorageError, UnsafePathError
from fusery.storage.failures import opened, os_failures
from fusery.storage.folder import SourceFile, scan
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import BASE_HEADER_LIMIT, HOLLOW, read_header

from ..documents import provenance_part
from ..models.gguf_header import MAGIC
from ..models.gguf_header import read_header as read_gguf_header
from ..record import Record, described
from .tensors import View, safetensors_views

_ARCHIVES = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # first bytes of gzip and Zstandard
_FACTOR = re.compile(r"(?:^|\.)lora_(?:[ab](?:\.|$)|embedding)", re.IGNORECASE)  # in adapters' tensor names
_PICKLED = 1 << 10  # bytes from which a pickle may hold weights


@dataclass(slots=True)
class Weights:
    """A file of tensors in the form `safetensors` or `gguf`; tensors of the latter are not read."""

    path: str
    views: list[View]
    metadata: Mapping[str, object]
    form: str


@dataclass(slots=True)
class FoundFiles:
    """The files at a path."""

    kind: str
    files: list[SourceFile]
    weights: list[Weights] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def units(self) -> list[Unit]:
        """What may be one thing each: the weights of a folder together, each adapter and each GGUF file by itself."""
        units_by_key: dict[tuple[str, str], Unit] = {}
        for weights in self.weights:
            adapter = any(_FACTOR.search(view.name) for view in weights.views)
            alone = adapter or weights.form == "gguf"
            place = PurePosixPath(weights.path)
            key = (str(place.parent), place.name if alone else "")
            unit = units_by_key.setdefault(key, Unit(weights.path if alone else str(place.parent), adapter))
            unit.weights.append(weights)
        if len(units_by_key) == 1:
            next(iter(units_by_key.values())).path = "."
        return list(units_by_key.values())

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


def look_at(path: Path) -> FoundFiles:
    """Return the files and tensors at a path; archives are not unpacked."""
    place = path.expanduser()
    with os_failures(f"read {path}", near=path):
        try:
            real = place.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError, RuntimeError):
            raise MissingFileError(f"file or folder not found: {path}", hint="check the path") from None
    if real.is_dir():
        files = FoundFiles("folder", scan(real))
    elif real.is_file():
        files = FoundFiles("file", [SourceFile(real.name, real, real.stat().st_size)])
        with opened(real) as content:
            start = content.read(512)
        if start.startswith(_ARCHIVES) or start[257:262] == b"ustar":
            return FoundFiles("archive", files.files)
    else:
        raise MissingFileError(f"{path} is no file and no folder", hint="name one")
    for file in files.files:
        try:
            weights = _weights(file)
        except StorageError as error:
            if files.kind != "folder":
                raise
            files.problems.append(error.message)  # the rest can still be identified
            continue
        if weights is None:
            files.problems += _unread(file)
            continue
        files.weights.append(weights)
        if files.kind == "file":
            files.kind = weights.form
    return files


def _weights(file: SourceFile) -> Weights | None:
    with os_failures(f"read {file.path}", near=file.real):
        with file.real.open("rb") as content:
            start = content.read(16)
            # Of nearly all holes: it costs nothing to make, and hours to hash.  Systems that know no blocks, or keep files
            # elsewhere, may say zero: what is of a usual size is not asked about.
            blocks = getattr(os.fstat(content.fileno()), "st_blocks", file.size)
            if file.size > HOLLOW and blocks * 512 < file.size // 16:
                raise UnsafePathError(f"of the {file.size:,} bytes of {file.path} nearly all are holes")
        if start.startswith(MAGIC):
            return Weights(file.path, [], read_gguf_header(file.real).metadata, "gguf")
    # Under another name, it begins with a length that fits, and an object of JSON.
    length = int.from_bytes(start[:8], "little")
    alike = start[8:10] in (b'{"', b"{ ") and 2 <= length <= min(file.size - 8, BASE_HEADER_LIMIT)
    if not (alike or file.path.endswith(".safetensors")):
        return None
    header = read_header(file.real, limit=BASE_HEADER_LIMIT)
    return Weights(file.path, safetensors_views(file.real, header), header.metadata, "safetensors")


def _unread(file: SourceFile) -> Iterator[str]:
    """Yield why a file of weights is not read: a pickle runs code when it is loaded, and is never opened here."""
    if file.size > _PICKLED and file.path.endswith((".bin", ".pt", ".pth", ".ckpt")):
        with opened(file.real) as content:
            start = content.read(4)
        if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            yield f"{file.path} is a pickle, which runs code when it is loaded: save it as safetensors where you trust its origin"


def compare_files(
    recorded: Mapping[str, str], digests: Mapping[str, Digest], files: Sequence[SourceFile]
) -> dict[str, list[str]]:
    """Return which recorded files are the same, changed or missing, and which files are extra."""
    present, wanted = set(digests.values()), set(recorded.values())
    names = {file.path for file in files}
    tops = sorted({path.partition("/")[0] + "/" for path in names if "/" in path} | {""})
    result: dict[str, list[str]] = {"same": [], "changed": [], "missing": []}
    changed: set[str] = set()
    for path, digest in sorted(recorded.items()):
        if is_hidden(path):
            continue
        place = next((top + path for top in tops if top + path in names), None)
        if digest in present:
            result["same"].append(path)
        elif place is not None:
            result["changed"].append(path)
            changed.add(place)
        else:
            result["missing"].append(path)
    extra = sorted(path for path in names - changed if digests.get(path) not in wanted)
    return {**result, "extra": extra}


def is_hidden(path: str) -> bool:
    """Tell whether a file or one of its folders is hidden: such files are not looked at."""
    return any(part.startswith(".") for part in path.split("/"))


_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_TEXT = 300


class IdentityClaim(Record, kw_only=False, frozen=False):
    """What a file claims to be, unverified."""

    source: str = described("the file with the claim")
    kind: str = described("`fused`, `adapter` or `base`")
    name: str | None = described("the claimed name")
    digest: str = described("the claimed digest, or the key of a fused model")
    true: bool | None = described("whether it is true; None if that cannot be determined", default=None)
    reason: str = described("why, in one sentence", default="")


def claims_of(scanned_files: FoundFiles) -> list[IdentityClaim]:
    """Return the claims of files; add unreadable documents to the problems."""
    claims: list[IdentityClaim] = []
    readers = {"fusery.json": _bundle, "adapter_metadata.json": _exported}
    for file in scanned_files.files:
        read = readers.get(PurePosixPath(file.path).name)
        if read is None or file.path.count("/") > 3:
            continue
        try:
            claims += read(read_object(file.real), file.path)
        except StorageError as error:
            scanned_files.problems.append(error.message)
    for weights in scanned_files.weights:
        claims += _keyed(weights.path, weights.metadata)
    # Several weight files may claim the same.
    by_place: dict[tuple[str, str, str], IdentityClaim] = {}
    for claim in claims:
        source = "" if claim.source.endswith((".safetensors", ".gguf")) else claim.source
        by_place.setdefault((claim.kind, claim.digest, source), claim)
    return list(by_place.values())


def _bundle(document: Mapping[str, object], source: str) -> list[IdentityClaim]:
    if document.get("format") != "fusery.bundle.v1":
        return []
    provenance, listed = provenance_part(document, "provenance"), document.get("adapters")
    rows = listed[:1000] if isinstance(listed, list) else []
    adapters = [part for part in rows if isinstance(part, Mapping)]
    claims = _claim(source, "fused", document.get("name"), provenance.get("key"), provenance.get("digest"))
    for adapter in adapters:
        claims += _claim(source, "adapter", adapter.get("name"), adapter.get("digest"))
    base = provenance_part(provenance, "base")
    return claims if claims or adapters else _claim(source, "base", base.get("name"), base.get("digest"))


def _exported(document: Mapping[str, object], source: str) -> list[IdentityClaim]:
    inner = provenance_part(document, "fusery")
    exported = inner.get("format") == "fusery.export.v1"
    return _claim(source, "adapter", inner.get("name"), inner.get("digest")) if exported else []


def _keyed(path: str, metadata: Mapping[str, object]) -> list[IdentityClaim]:
    name = metadata.get("fusery.adapter.name") or metadata.get("general.name")
    return (
        _claim(path, "fused", name, metadata.get("fusery.key"))
        or _claim(path, "adapter", name, metadata.get("fusery.adapter.digest"))
        or _claim(path, "base", metadata.get("fusery.base.name"), metadata.get("fusery.base.digest"))
    )


def _claim(source: str, kind: str, name: object, *digests: object) -> list[IdentityClaim]:
    """Return the claim to be what the first valid digest is of, if there is one."""
    text = name[:_MOST_TEXT] if isinstance(name, str) and name else None
    valid = (digest for digest in digests if isinstance(digest, str) and _DIGEST.fullmatch(digest))
    return [IdentityClaim(source, kind, text, digest) for digest in valid][:1]
