"""The source of a bundle: its model, adapters and provenance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fusery.storage.manifest import Manifest, manifest_of

from ..errors import BadInputError
from ..models.architecture import Architecture

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Files:
    """Files on this machine, with expected sizes and digests.

    Attributes:
        paths: where each file is, by its name.
        manifest: sizes and digests, checked while the files are copied.
    """

    paths: Mapping[str, Path]
    manifest: Manifest

    @classmethod
    def of(cls, paths: Mapping[str, Path]) -> Self:
        """Return files with newly computed digests."""
        return cls(paths, manifest_of(paths))

    @classmethod
    def within(cls, folder: Path, manifest: Manifest) -> Self:
        """Return the files of a folder that a manifest lists."""
        return cls({entry.path: folder / entry.path for entry in manifest}, manifest)

    def only(self, paths: Iterable[str]) -> Self:
        """Return some of the files."""
        wanted = set(paths)
        manifest = Manifest.of(entry for entry in self.manifest if entry.path in wanted)
        return type(self)({path: self.paths[path] for path in wanted}, manifest)


@dataclass(frozen=True, slots=True)
class BundledAdapter:
    """An unfused adapter in a bundle.

    Attributes:
        name: its full name.
        names: other references that it was requested by, such as `course_rec#prod`.
        files: weights and `adapter_config.json`, in the form that the target takes.
        facts: plain JSON values: those of `adapter` in a provenance.
        tokenizer: the tokenizer files that were registered with the adapter.
    """

    name: str
    names: tuple[str, ...]
    files: Files
    facts: Mapping[str, Any]
    tokenizer: Files = field(default_factory=lambda: Files.of({}))


@dataclass(frozen=True, slots=True)
class BundleSource:
    """A model with adapters in it or beside it, and their provenance.

    Attributes:
        name: of the bundle and the served model: `[a-z0-9._-]`, like an adapter's name.
        provenance: plain JSON values, each key optional: `base` (`name`, `digest`), `tool`, and of a fused model `key`,
            `digest`, `adapter` (`name`, `digest`, `task`, `version`, `date`, `rank`, `alpha`, `scale`, `val_loss`,
            `dataset`), `with` (further adapters: `adapter`, `weight`, `digest`), `recipe`, `format` (the precision in
            words), `weights_bytes`, `times_base`, `rebuild` (a command), `fidelity` (`verdict`, `retained`, `cosine`,
            `relative_error`, and of the modules furthest from 1 `worst`), `created_at`.  Where a plugin writes the bundle,
            `plugin` is its distribution and version.  They may hold any text.
        model: the fused model's files: safetensors, config.json, the tokenizer's files; or the base's, that the adapters
            stand on; None where the target only names the base.
        adapters: unfused ones; none when the model is fused.
        routes: further names of unfused adapters, each with the full name it leads to, or several with weights.
        base: of unfused adapters, whether or not its files are there.
        tokenizer: files of the tokenizer that unfused adapters need instead of the base's; None if they use the base's.
    """

    name: str
    provenance: Mapping[str, Any]
    model: Files | None
    adapters: tuple[BundledAdapter, ...] = ()
    routes: Mapping[str, str | Mapping[str, float]] = field(default_factory=dict)
    base: Architecture | None = None
    tokenizer: Files | None = None

    @property
    def fused(self) -> Files:
        """The fused model's files.

        Raises:
            BadInputError: there is none.
        """
        if self.model is None or self.adapters:
            raise BadInputError(f"{self.name} is not a fused model")
        return self.model

    def check(self) -> None:
        """Check what templates rely on.

        Raises:
            BadInputError: a name is not a name, or the model's manifest lacks the model or claims a name of the
                bundle's own.
        """
        for name in (self.name, *(adapter.name for adapter in self.adapters)):
            if not _NAME.fullmatch(name) or ".." in name:
                raise BadInputError(f"{name[:60]!r} is not a name for a bundle")
        if self.model is not None:
            self._check_model(self.model.manifest)

    def _check_model(self, manifest: Manifest) -> None:
        paths = {entry.path.casefold(): entry.path for entry in manifest}
        if "config.json" not in paths or not any(path.endswith(".safetensors") for path in paths):
            raise BadInputError(f"{self.name} is not a model: it has no config.json or no safetensors file")
        if self.adapters:
            return  # the base's own README and record stay its own, in a folder of their own
        for own in ("readme.md", "fusery.json", "curve.svg"):
            if own in paths:
                raise BadInputError(f"{self.name} has a file {paths[own]!r}, which is the bundle's own")
