"""The content digest of bases that were added before it was recorded; read when a new base may be the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from fusery.storage.errors import StorageError

from .. import tables
from ..models.architecture import Architecture
from ..models.identity import Identity, identify_base, lasting
from ..records.scratch import scratch_folder

if TYPE_CHECKING:
    from ..workspace import Workspace


def may_be(base: tables.BaseModel, architecture: Architecture) -> bool:
    """Tell from its record whether a base may have the same content as other files."""
    return base.parameters == architecture.parameters and lasting(base.config) == lasting(architecture.config)


def learn_contents(
    workspace: Workspace, identity: Identity, architecture: Architecture, say: Callable[[str], None]
) -> None:
    """Read and record the content digest of bases that may equal a new one and have none yet.

    Args:
        workspace: the registry's parts.
        identity: the new base.
        architecture: of the new base.
        say: called with the base that is read, or cannot be.
    """
    from ..records.bases import locate_files

    for base in _unknown(workspace, identity, architecture):
        name = base.name
        say(f"reading {name}, to tell whether it is the same model")
        try:
            with scratch_folder(workspace) as folder:
                found = identify_base(locate_files(workspace, base, folder), base.config)
        except StorageError as error:
            say(f"{name} cannot be read, and is taken for another model: {error.message}")
            continue
        if found.manifest.digest == base.digest:
            with workspace.database.write() as session:
                session.get_one(tables.BaseModel, base.id).content = found.content


def _unknown(workspace: Workspace, identity: Identity, architecture: Architecture) -> list[tables.BaseModel]:
    with workspace.database.read() as session:
        query = (
            select(tables.BaseModel)
            .where(
                tables.BaseModel.content.is_(None),
                tables.BaseModel.parameters == architecture.parameters,
                tables.BaseModel.digest != identity.manifest.digest,
            )
            .options(
                selectinload(tables.BaseModel.names),
                selectinload(tables.BaseModel.manifest).selectinload(tables.Manifest.files),
            )
        )
        return [base for base in session.scalars(query) if may_be(base, architecture)]
