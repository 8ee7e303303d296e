"""JSON files of our own: the same document gives the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fusery.storage.digest import digest_bytes
from fusery.storage.failures import os_failures
from fusery.storage.publishing import link_exclusive, part_near, sync_file, sync_folder, write_all

from .errors import AlreadyExistsError, BadInputError

RECORD = "fusery.json"  # the file that a whole bundle has; at a URL it is written last

BUNDLE_FORMAT, FORMAT = "fusery.bundle.v1", "fusery.export.v1"
KEY = "fusery"  # key of the registry's own part of an exported folder's document

CHECKSUM = "checksum"
"""Key of the SHA-256 of the rest of a document: it shows an accident, and proves nothing about who wrote it."""

_PICTURES = ("png", "svg")
_LOCAL = re.compile(r"/|~[^/]*/|file:|\\\\|[A-Za-z]:[\\/]")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#]*@)?(?P<rest>[^?#]*).*", re.DOTALL)


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as indented ASCII JSON with sorted keys."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document to a file that does not exist yet."""
    with os_failures(f"write {path}", near=path.parent), path.open("xb") as file:
        file.write(document_bytes(document))


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a bundle's record."""
    try:
        return document_bytes(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"the provenance of {record['name']} is not plain JSON: {error}") from error


def checksum_of(record: Mapping[str, Any]) -> str:
    """Return the checksum of a document: of all of it but the checksum."""
    return digest_bytes(record_bytes({key: value for key, value in record.items() if key != CHECKSUM}))


def provenance_part(provenance: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object of the provenance, empty if it is missing or no object."""
    value = provenance.get(key)
    return value if isinstance(value, Mapping) else {}


def without_places(value: Any) -> Any:
    """Return a JSON value with local paths cut to their last part, and URLs without user, password, query and fragment."""
    if isinstance(value, Mapping):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if _LOCAL.match(value):
        return PurePosixPath(value.replace("\\", "/")).name
    if url := _URL.fullmatch(value):
        return url["scheme"] + url["rest"]
    return value


def without_people(views: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return views of amendments as they leave the registry: who made them, and since when they count here, stays."""
    return [{key: view[key] for key in ("field", "from", "to", "reason", "at")} for view in views]


def measured_without_people(views: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return views of evaluations as they leave the registry: what was measured, and not by whom it was recorded."""
    return [{key: view[key] for key in view if key not in ("adapter", "by")} for view in views]


def picture_kind(plot: Path) -> str:
    """Return the kind of picture that a file is to hold."""
    kind = plot.suffix.lower().removeprefix(".")
    if kind not in _PICTURES:
        raise BadInputError(f"not a .png or .svg file: {plot.name[:60]!r}", hint="--plot picture.png")
    if plot.is_dir():
        raise AlreadyExistsError(f"{plot} is a folder", hint="give the name of a file")
    return kind


def write_picture(place: Path, data: bytes, *, force: bool) -> None:
    """Write a picture whole or not at all; one that is there already and the same is left as it is."""
    with os_failures(f"read {place}", near=place.parent):
        if place.is_file() and not force and place.read_bytes() == data:
            return
    with os_failures(f"write {place}", near=place.parent), part_near(place) as (part, descriptor):
        write_all(descriptor, data)
        sync_file(descriptor)
        if force:
            part.replace(place)
        else:
            try:
                link_exclusive(part, place)
            except FileExistsError as taken:
                hint = "give another name, or --force to replace it"
                raise AlreadyExistsError(f"{place} exists already", hint=hint) from taken
        sync_folder(place.parent)


def checksum_of_metadata(document: Mapping[str, Any]) -> str:
    """Return the checksum of an exported folder's document: of all of it but the checksum."""
    inner = {key: value for key, value in document[KEY].items() if key != CHECKSUM}
    return digest_bytes(document_bytes({**document, KEY: inner}))
