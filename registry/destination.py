"""Where a bundle goes: which folders it may not be, what is there already, and a place beside it to build it in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy import select

from fusery.storage.digest import digest_file
from fusery.storage.errors import StoreDeniedError
from fusery.storage.failures import os_failures
from fusery.storage.manifest import Manifest
from fusery.storage.publishing import sync_file, sync_folder
from fusery.storage.stamps import is_dead, this_process

from . import tables
from .errors import AlreadyExistsError, BadInputError

if TYPE_CHECKING:
    from .workspace import Workspace

_OWNER = "owner"


def place_of(destination: Path) -> Path:
    """Return the one spelling of a destination: absolute, without `..` and links."""
    with os_failures(f"look at {destination}", near=Path("/")):
        return destination.expanduser().resolve()


def refuse_ours(workspace: Workspace, place: Path) -> None:
    """Refuse a place that holds, or is part of, what must not be replaced: the registry, a base, the current folder."""
    guarded = {"the registry's home": workspace.settings.home, "the cache": workspace.settings.cache}
    if (database := workspace.database.path) is not None:
        guarded["the database's folder"] = database.parent
    if workspace.store.capabilities.local:
        guarded["the store"] = Path(url2pathname(urlsplit(workspace.store.url).path))
    with workspace.database.read() as session:
        for base in session.scalars(select(tables.BaseModel).where(tables.BaseModel.location.is_not(None))):
            guarded[f"the base {base.names[0].name}"] = Path(str(base.location))
    for what, folder in guarded.items():
        real = folder.resolve()
        if place == real or place in real.parents or real in place.parents:
            raise BadInputError(
                f"{place} is, holds or lies in {what}, and cannot be a bundle", hint="give another folder"
            )
    here = Path.cwd()
    if place == here or place in here.parents:
        raise BadInputError(
            f"{place} is, or holds, the current folder, and cannot be a bundle",
            hint="give the name of a new folder",
        )


def require_free(place: Path, force: bool) -> None:
    """Refuse a place that cannot become a bundle, before anything is computed.

    An earlier bundle may be the very one that is asked for, and is looked at later.
    """
    if place.exists() and not place.is_dir():
        raise AlreadyExistsError(f"{place} is a file", hint="give a folder that does not exist yet")
    if occupied(place) and not force and not (place / "fusery.json").is_file():
        raise taken(place)
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir():
        raise BadInputError(f"{parent} is a file and cannot hold a folder", hint="give another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StoreDeniedError(
            f"{parent} may not be written by this user", hint="give a folder that you may write"
        )


def occupied(place: Path) -> bool:
    """Tell whether there is a folder with something in it."""
    return place.is_dir() and any(place.iterdir())


def taken(place: Path) -> AlreadyExistsError:
    """Return the refusal of a place that holds something."""
    return AlreadyExistsError(
        f"there is something in {place} already", hint="give another folder, or --force to replace it"
    )


def holds(place: Path, manifest: Manifest) -> bool:
    """Tell whether a folder holds exactly the files of a manifest."""
    present = {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}
    return present == {entry.path for entry in manifest} and all(
        digest_file(place / entry.path) == (entry.sha256, entry.size) for entry in manifest
    )


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """Yield a temporary folder on the destination's file system; sweep those that killed commands left there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{place.name}.fusery-"
    for stale in place.parent.glob(f"{prefix}*"):
        if _abandoned(stale):
            shutil.rmtree(stale, ignore_errors=True)
    with (
        os_failures(f"write {place}", near=place.parent),
        tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent, ignore_cleanup_errors=True) as folder,
    ):
        (Path(folder) / _OWNER).write_text(this_process(), encoding="utf-8")
        inner = Path(folder) / place.name
        inner.mkdir()
        yield inner


def _abandoned(folder: Path) -> bool:
    """Tell whether the process that made a temporary folder has ended; False when in doubt, as on another machine."""
    try:
        return is_dead((folder / _OWNER).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def sync_tree(folder: Path) -> None:
    """Bring a bundle to the disk before its name and its record are: unlike the cache, nobody could rebuild it."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                sync_file(descriptor)
            finally:
                os.close(descriptor)
        else:
            sync_folder(path)
    sync_folder(folder)
