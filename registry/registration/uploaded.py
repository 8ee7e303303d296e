"""An adapter's folder that a server's client has sent, file by file: laid out again, to be read like one of this machine."""

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
"""Before the name of a trainer's output that lies elsewhere than in the folder."""

_MOST_FILES = 1_000
_MOST_BYTES = 8 << 30


def files_to_send(folder: Path, log: Path | None) -> dict[str, Path]:
    """Return the files of a folder that registering reads, by their paths in it, and the trainer's output.

    Raises:
        MissingFileError, UnsafePathError: there is no such folder, or a link leaves it.
    """
    if not folder.is_dir():
        from ..adapters.folder import read_adapter_folder

        read_adapter_folder(folder)  # says what is wrong
    found = {file.path: file.real for file in scan(folder) if is_wanted(file.path)}
    return found if log is None else {**found, f"{LOG}{log.name}": log}


@contextmanager
def uploaded(workspace: Workspace, name: str, files: Mapping[str, str]) -> Iterator[tuple[Path, Path | None]]:
    """Yield a folder with files that were sent before, and the trainer's output, where that was sent too.

    Args:
        workspace: the registry, under the name of who has sent them.
        name: of the folder.
        files: the digests of its files, by their paths in it.

    Raises:
        BadInputError: a name is none that an adapter's folder has, or there are absurdly many.
        BlobsMissingError: files were not sent.
    """
    from fusery.storage.room import Need, require_rooms

    from ..records.bases import blob_generations
    from ..records.scratch import scratch_folder

    digests = _checked(name, files)
    sizes = _sizes(workspace, set(digests.values()))
    if missing := [path for path, digest in digests.items() if digest not in sizes]:
        raise BlobsMissingError(
            f"{plural(len(missing), 'file')} of this adapter were not sent, such as {missing[0]}",
            hint="run the command again",
        )
    if sum(sizes.values()) > _MOST_BYTES:
        raise BadInputError("the files of this folder are too large", hint="give the folder of one run")
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
        raise BadInputError("this is no folder of an adapter", hint="give the folder of one run")
    found = {}
    for path, digest in files.items():
        if not (is_wanted(path) or (path.startswith(LOG) and _is_plain(path.removeprefix(LOG)))):
            raise BadInputError(f"{path[:80]!r} is no file of an adapter", hint="update the client")
        try:
            found[path] = parse_digest(digest)
        except ValueError as error:
            raise BadInputError(f"no digest: {digest[:80]!r}", hint="update the client") from error
    return found


def _is_plain(name: str) -> bool:
    """Tell whether a text is the name of one file or folder."""
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
