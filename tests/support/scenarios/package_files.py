"""Change the files of a package as somebody would who knows how to compute their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusery.storage.digest import digest_json

Document = dict[str, Any]
Lines = list[dict[str, Any]]


def member_path(place: Path, name: str) -> Path:
    document = json.loads((place / "package.json").read_bytes())
    [member] = [member for member in document["members"] if member["name"] == name]
    return blob_path(place, member["sha256"])


def blob_path(place: Path, digest: str) -> Path:
    return place / "blobs" / "sha256" / digest[:2] / digest


def change_contents(place: Path, change: Callable[[Document], object]) -> None:
    path = place / "package.json"
    document = json.loads(path.read_bytes())
    document.pop("sha256")
    change(document)
    path.unlink()
    path.write_text(json.dumps({**document, "sha256": digest_json(document)}))


def change_member(place: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    def replace(document: Document) -> None:
        [member] = [member for member in document["members"] if member["name"] == name]
        data = change(blob_path(place, member["sha256"]).read_bytes())
        digest = hashlib.sha256(data).hexdigest()
        member.update(sha256=digest, size=len(data), lines=data.count(b"\n"))
        path = blob_path(place, digest)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    change_contents(place, replace)


def change_lines(place: Path, name: str, change: Callable[[Lines], object]) -> None:
    def within(data: bytes) -> bytes:
        lines = [json.loads(line) for line in data.splitlines()]
        change(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    change_member(place, name, within)
