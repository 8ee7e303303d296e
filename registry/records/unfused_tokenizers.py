"""Choose the tokenizer of a server with unfused adapters: one for the base and all adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.tokenizer_files import (
    differences,
    is_tokenizer_file,
    is_tokenizer_of_base,
    reader,
    with_tokenizer,
)
from ..errors import BadInputError
from .bases import locate_files
from .renderings import fetch_originals

if TYPE_CHECKING:
    from .. import tables
    from ..workspace import Workspace

CONFIG = "config.json"
"""transformers finds a tokenizer's class by this file; its end token counts if `generation_config.json` names none."""


def unfused_tokenizer(
    workspace: Workspace, base: tables.BaseModel, adapters: Sequence[tables.Adapter], scratch: Path
) -> dict[str, Path]:
    """Return the tokenizer files that unfused adapters need instead of their base's; empty if they use the base's.

    Args:
        workspace: the registry's parts.
        base: the adapters' base, with its manifest loaded.
        adapters: adapters with their manifests loaded.
        scratch: a new folder for fetched files.

    Raises:
        BadInputError: two adapters need different tokenizers, and a server has only one.
        StorageError: files cannot be read.
    """
    if not any(is_tokenizer_file(file.path) for adapter in adapters for file in adapter.manifest.files):
        return {}
    scratch.mkdir(parents=True)
    needed = {file.path for file in base.manifest.files if is_tokenizer_of_base(file.path)}
    theirs = locate_files(workspace, base, scratch, only={*needed, CONFIG})
    found = [
        with_tokenizer(
            theirs, fetch_originals(workspace, adapter, scratch / str(number), only=is_tokenizer_file)
        )
        for number, adapter in enumerate(adapters)
    ]
    for adapter, own in zip(adapters[1:], found[1:], strict=True):
        for name, what in differences(reader(own), reader(found[0])):
            raise BadInputError(
                f"{adapters[0].name} and {adapter.name} differ in their {what} ({name}), and a server has only one",
                hint=f"start a server for each adapter, or serve a fused model: fusery serve {adapter.name} --fused",
            )
    return found[0] if differences(reader(found[0]), reader(theirs)) else {}
