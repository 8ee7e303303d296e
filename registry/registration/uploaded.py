"""Adapter folders that a client uploads to a server file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest, parse_digest
from fusery.storage.folder import scan

from ..errors import BadInputError, BlobsMissingError
from ..parsing import plural
from .sources import is_wanted

if TYPE_CHECKING:
    from ..workspace import Workspace

LOG = "log/"
"""The prefix of a training log that is outside the folder."""

_MOST_FILES = 1_000
_MOST_BYTES = 8 << 30


def files_to_send(folder: Path, log: Path | None) -> dict[str, Path]:
    """Return the files of a folder that `register` reads, by relative path, and the training log.

    Raises:
        MissingFileError, UnsafePathError: the folder does not exist, or a link points out of it.
    """
    if not folder.is_dir():
        from ..adapters.folder import read_adapter_folder

        read_adapter_folder(folder)  # raises the error
    found = {file.path: file.real for file in scan(folder) if is_wanted(file.path)}
    return found if log is None else {**found, f"{LOG}{log.name}": log}


@contextmanager
def uploaded(workspace: Workspace, name: str, files: Mapping[str, str]) -> Iterator[tuple[Path, Path | None]]:
    """Yield a temporary folder with uploaded files, and the training log if it was uploaded.

    Args:
        workspace: the registry, under the sender's name.
        name: the folder's name.
        files: the digests of its files, by relative path.

    Raises:
        BadInputError: a name is invalid, or the folder is too large.
        BlobsMissingError: files were not uploaded.
    """
    from fusery.storage.room import Need, require_rooms

    from ..records.bases import blob_generations
    from ..records.scratch import scratch_folder

    digests = _checked(name, files)
    sizes = _sizes(workspace, set(digests.values()))
    if missing := [path for path, digest in digests.items() if digest not in sizes]:
        raise BlobsMissingError(
            f"{plural(len(missing), 'file')} of this adapter not uploaded, such as {missing[0]}",
            hint="run the command again",
        )
    if sum(sizes.values()) > _MOST_BYTES:
        raise BadInputError("adapter folder is too large (at most 8 GiB)", hint="give the folder of one run")
    generations = blob_generations(workspace, list(digests.values()))
    with scratch_folder(workspace) as scratch:
        require_rooms([Need(scratch, list(sizes.values()))])
        folder, log = scratch / "sent" / name, None
        written = dict[Digest, Path]()
        folder.mkdir(parents=True)
        for path, digest in digests.items():
            place = folder / path
            if path.startswith(LOG):
                place = log = scratch / "log" / path.removeprefix(LOG)
            place.parent.mkdir(parents=True, exist_ok=True)
            if digest in written:
                os.link(written[digest], place)
                continue
            workspace.store.fetch(digest, place, generation=generations[digest], size=sizes[digest])
            written[digest] = place
        yield folder, log


def _checked(name: str, files: Mapping[str, str]) -> dict[str, Digest]:
    if not _is_plain(name) or len(files) > _MOST_FILES:
        raise BadInputError(
            f"invalid adapter folder (its name is invalid, or it has more than {_MOST_FILES:,} files)",
            hint="give the folder of one run",
        )
    found = {}
    for path, digest in files.items():
        if not (is_wanted(path) or (path.startswith(LOG) and _is_plain(path.removeprefix(LOG)))):
            raise BadInputError(f"unexpected file: {path[:80]!r}", hint="update the client")
        try:
            found[path] = parse_digest(digest)
        except ValueError as error:
            raise BadInputError(f"invalid digest: {digest[:80]!r}", hint="update the client") from error
    return found


def _is_plain(name: str) -> bool:
    """Return whether a text is a valid name of a file or folder, without a path."""
    parts = PurePosixPath(name).parts
    return (
        len(parts) == 1
        and parts[0] not in ("..", "/", ".")
        and name.isprintable()
        and len(name) <= 200
        and "\\" not in name
    )


def _sizes(workspace: Workspace, digests: set[Digest]) -> dict[Digest, int]:
    from sqlalchemy import select

    from .. import tables
    from ..database.batches import batches

    blob, found = tables.Blob, dict[Digest, int]()
    with workspace.database.read() as session:
        for some in batches(digests):
            rows = session.execute(
                select(blob.digest, blob.size).where(blob.digest.in_(some), blob.state == "ready")
            )
            found |= {Digest(digest): size for digest, size in rows}
    return found
