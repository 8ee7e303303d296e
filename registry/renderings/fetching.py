"""The files of a registered adapter in one form or the other, verified, in a folder of the caller's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest

from .. import tables
from ..bases import blob_generations, recorded_architecture
from .record import recorded_digest
from .render import Form, render_mlx, render_peft

if TYPE_CHECKING:
    from ..workspace import Workspace


def fetch_originals(workspace: Workspace, adapter: tables.Adapter, folder: Path) -> dict[str, Path]:
    """Fetch an adapter's files as they were registered, by name.

    Raises:
        BlobMissingError: the store lacks one.
        BlobCorruptError: one is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digests = {file.path: Digest(file.sha256) for file in adapter.manifest.files}
    generations = blob_generations(workspace, list(digests.values()))
    for name, digest in digests.items():
        workspace.store.fetch(digest, folder / name, generation=generations.get(digest, 0))
    return {name: folder / name for name in digests}


def fetch_form(workspace: Workspace, adapter: tables.Adapter, form: Form, folder: Path) -> dict[str, Path]:
    """Fetch an adapter's files in one form, by name, to be run or shipped; what is not its own form is computed.

    Its own are `fetch_originals`: in mlx-lm's form, a configuration of other years is put into the words of today.

    Args:
        workspace: the registry's parts.
        adapter: with its manifest loaded.
        form: which.
        folder: a new folder for temporary files.

    Raises:
        BadInputError: the adapter has no form in PEFT.
        FormatError: the rendering is another than recorded.
    """
    originals = fetch_originals(workspace, adapter, folder / "original")
    with workspace.database.read() as session:
        row = session.get_one(tables.Adapter, adapter.id)
        expected, base = recorded_digest(row, form), recorded_architecture(row.base)
    if form == "mlx":
        return render_mlx(originals, folder / "mlx", expected=expected)
    return render_peft(originals, base, folder / "peft", expected=expected)
