"""What a bundle is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.manifest import Manifest

from ..errors import BadInputError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class BundleSource:
    """A fused model in the local cache, and where it came from.

    Attributes:
        folder: the model's files: safetensors, config.json, the tokenizer's files.
        manifest: those files' sizes and digests, checked while they are copied.
        provenance: plain JSON values, each key optional: `key`, `digest`, `base` (`name`, `digest`), `adapter` (`name`,
            `digest`, `task`, `version`, `date`, `rank`, `alpha`, `scale`, `val_loss`, `dataset`), `with` (further
            adapters: `adapter`, `weight`, `digest`), `recipe`, `format` (the precision in words), `weights_bytes`,
            `times_base`, `rebuild` (a command), `fidelity` (`verdict`, `retained`, `cosine`, `relative_error`, and of
            the modules that retained least `worst`), `created_at`, `tool`.  They may hold any text.
        name: what the bundle and the served model are called: `[a-z0-9._-]`, as an adapter's name is.
    """

    folder: Path
    manifest: Manifest
    provenance: Mapping[str, Any]
    name: str

    def check(self) -> None:
        """Check what templates rely on.

        Raises:
            BadInputError: the name is not a name, or the manifest lacks the model or claims a name of the bundle's own.
        """
        if not _NAME.fullmatch(self.name) or ".." in self.name:
            raise BadInputError(f"{self.name[:60]!r} is not a name for a bundle")
        paths = {entry.path.casefold(): entry.path for entry in self.manifest}
        if "config.json" not in paths or not any(path.endswith(".safetensors") for path in paths):
            raise BadInputError(f"{self.name} is not a model: it has no config.json or no safetensors file")
        for own in ("readme.md", "fusery.json"):
            if own in paths:
                raise BadInputError(f"{self.name} has a file {paths[own]!r}, which is the bundle's own")
