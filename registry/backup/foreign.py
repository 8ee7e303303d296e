"""Restore another party's backup: open its rows as another registry, and copy from it like `pull`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.errors import (
    BlobCorruptError,
    BlobMissingError,
    FormatError,
    MissingFileError,
    UnsafePathError,
)
from fusery.storage.locate import open_store
from fusery.storage.progress import Reporter
from fusery.storage.room import needs_of, require_rooms

from .. import tables
from ..database import Database
from ..errors import DatabaseUnavailableError, RegistryError
from ..exchange.believing import require_identity
from ..exchange.exchange import copy
from ..records.transfer import Moved
from .errors import BackupError, NotEmptyError
from .filling import database_size, fill_temporary
from .own import LeftOut, Restored, make_ready, missing_sizes, require_empty
from .reading import Backup

if TYPE_CHECKING:
    from ..workspace import Workspace

_NEVER: Mapping[str, str] = {
    **dict.fromkeys(("alias", "alias_rule", "approval", "deployment"), "set them again in this registry"),
    **dict.fromkeys(("token", "trusted_key", "webhook"), "trust is not copied between registries"),
    "bundle": "they are in folders of the other registry's users",
    "event": "this registry's log refers to them",
}
"""Tables whose rows are never copied, with the reason."""


def copy_from(workspace: Workspace, backup: Backup, folder: Path, reporter: Reporter) -> Restored:
    """Copy bases, calibrations, adapters and fused models from another party's backup, as `pull` does.

    Each item is recorded when it is complete, so that the same command can resume an interrupted copy.

    Args:
        workspace: the workspace of the new registry.
        backup: the backup.
        folder: an empty folder for the backup's files and a temporary database.
        reporter: receives messages, and the bytes of blobs done and the total.

    Raises:
        BackupError: the backup is damaged.
        NotEmptyError: the registry has records other than base models and copies from the same backup.
    """
    from ..workspace import Workspace as Parts

    catalogue, settings = backup.catalogue, workspace.settings
    registry = require_identity(catalogue.store)
    with closing(Database.open(settings.database)) as database:
        require_empty(database, registry)
    store = open_store(settings.store, options=settings.store_options)
    if store.identify() == registry:
        raise NotEmptyError(
            "the store belongs to the registry in the backup", hint="if the backup is your own, give --own"
        )
    reporter.say("reading the backup")
    backup.fetch()
    blobs = [replace(blob, generation=0) for blob, stored in backup.blobs() if stored]
    needs = [backup.need(database_size(catalogue)), *needs_of(store, missing_sizes(store, blobs))]
    require_rooms(needs, hint="free some space")
    url = fill_temporary(backup, folder, actor=workspace.actor)
    make_ready(workspace)
    origin = Parts(replace(settings, database_url=url, store_url=backup.place.url))
    origin.__dict__["store"] = backup.place
    copied = dict[tuple[str, str, str], str]()
    left_out = dict[tuple[str, str], LeftOut]()
    try:
        for item in _copied(origin, workspace, reporter):
            if item.state == "left out":
                left = LeftOut(item.kind, item.name, 1, item.reason or "")
                left_out[item.kind, item.name] = left
            else:
                copied[item.kind, item.name, item.digest] = item.kind.replace("base", "base_model")
    except (BlobMissingError, BlobCorruptError) as error:
        raise BackupError(
            f"the backup in {backup.where} is damaged: {error.message}",
            hint="run the command again with another backup of that registry; the copied records stay",
        ) from error
    finally:
        origin.close()
    others = [
        LeftOut(file.table, None, file.rows, _NEVER[file.table])
        for file in catalogue.tables
        if file.rows and file.table in _NEVER
    ]
    return Restored(
        backup.where,
        catalogue.made_at,
        Counter(copied.values()),
        catalogue.blobs,
        catalogue.last_event,
        False,
        (*left_out.values(), *others),
    )


def _copied(origin: Workspace, destination: Workspace, reporter: Reporter) -> Iterator[Moved]:
    """Copy all items, and yield the result of each; leave out refused items and those that depend on them."""
    with origin.database.read() as session:
        adapter = tables.Adapter
        bases = session.scalars(select(tables.BaseModel.digest).order_by(tables.BaseModel.id)).all()
        named = session.execute(
            select(tables.Task.name, adapter.name).join(adapter.task).order_by(adapter.id)
        ).all()
        fused = session.scalars(select(tables.Fused.key).order_by(tables.Fused.id)).all()
    tasks = defaultdict[str, list[str]](list)
    for task, name in named:
        tasks[task].append(name)
    wanted = [("base", digest, list[str]()) for digest in bases]
    wanted += [("adapter", task, names) for task, names in tasks.items()]
    wanted += [("fused", key, []) for key in fused]
    for kind, reference, parts in wanted:
        try:
            yield from copy(
                origin, destination, destination, reference, fused=False, reporter=reporter
            ).items_
        except DatabaseUnavailableError:
            raise
        except (RegistryError, FormatError, MissingFileError, UnsafePathError) as error:
            # An item of the task was refused: copy each of its adapters separately.
            wanted += [(kind, name, []) for name in parts]
            if not parts:
                yield Moved(kind, reference, "", "", "left out", 0, error.message)
