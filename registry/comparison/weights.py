"""Where the weights of registered adapters can be read: in place where the store is on this machine, and verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.watching import Watch

from ..adapters.files import WEIGHTS
from ..errors import BadInputError
from ..records.bases import blob_generations
from ..records.renderings import fetch_form
from .modules import OpenAdapter, open_adapter

if TYPE_CHECKING:
    from .. import tables
    from ..workspace import Workspace


@contextmanager
def open_registered(workspace: Workspace, adapters: Sequence[tables.Adapter]) -> Iterator[list[OpenAdapter]]:
    """Open the weights of registered adapters for as long as something is read from them.

    Args:
        workspace: the registry's parts.
        adapters: with their manifests loaded.

    Raises:
        FusionUnsupportedError: one has no factors.
        BlobMissingError: the store lacks a file.
        BlobCorruptError: a file is damaged.
    """
    with workspace.cache.scratch() as scratch, ExitStack() as stack:
        with ThreadPoolExecutor(max(1, len(adapters))) as pool:
            # A folder for each: it may be the same adapter twice.
            folders = [scratch / str(number) for number in range(len(adapters))]
            paths = list(
                pool.map(lambda adapter, folder: _located(workspace, adapter, folder), adapters, folders)
            )
        yield [
            stack.enter_context(open_adapter(path, _scale(adapter), method=adapter.method, name=adapter.name))
            for path, adapter in zip(paths, adapters, strict=True)
        ]


def _scale(adapter: tables.Adapter) -> float:
    if adapter.scale is None and adapter.method != "full":
        raise BadInputError(f"no scale is on record for {adapter.name}", hint=f"fusery show {adapter.name}")
    return adapter.scale or 0.0


def _located(workspace: Workspace, adapter: tables.Adapter, folder: Path) -> Path:
    """Return where the weights lie; they were read through and found right today, or are now."""
    file = next((file for file in adapter.manifest.files if file.path == WEIGHTS), None)
    if file is None:  # registered in PEFT's form
        return fetch_form(workspace, adapter, "mlx", folder, factors_only=True)[WEIGHTS]
    digest = Digest(file.sha256)
    generation = blob_generations(workspace, [digest])[digest]
    local = workspace.store.local_path(digest, generation=generation)
    if local is None:
        folder.mkdir()
        local = folder / WEIGHTS
        workspace.store.fetch(digest, local, generation=generation)
    elif not workspace.vouchers.hold(local, digest):
        watch = Watch({WEIGHTS: local}, near=workspace.vouchers.root)
        workspace.store.verify(digest, file.size, generation=generation)
        workspace.vouchers.note(watch, WEIGHTS, digest)
    return local
