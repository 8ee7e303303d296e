"""Bundles for tests: written by the name of their target, from a source whose files can be exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fusery.registry.bundles import (
    TARGETS,
    BundleSource,
    Choices,
    Files,
    Written,
    find_target,
    write_bundle,
)
from fusery.storage.manifest import Manifest

WRITTEN_HERE = {name: target for name, target in TARGETS.items() if name != "onnx"}
"""Targets that are written by this interpreter; the exporter to ONNX needs another and takes long, and has tests of its own."""


class Imaged(NamedTuple):
    """A target whose bundles build an image, and a source for one, to be left as it is."""

    target: str
    source: BundleSource

    def write(self, folder: Path, **choices: Any) -> Path:
        """Write a bundle into a folder, which may be new, and return that."""
        folder.mkdir(exist_ok=True)
        make_bundle(self.source, self.target, folder, **choices)
        return folder


def make_bundle(source: BundleSource, target: str, folder: Path, **choices: Any) -> Written:
    """Write a bundle into an empty folder."""
    return write_bundle(source, find_target(target), folder, Choices(**choices))


def model_folder(source: BundleSource) -> Path:
    """Return where the files of a source's model are."""
    return source.fused.paths["config.json"].parent


def with_model(
    source: BundleSource, *, folder: Path | None = None, manifest: Manifest | None = None
) -> BundleSource:
    """Return a source with another folder or another manifest."""
    files = Files.within(folder or model_folder(source), manifest or source.fused.manifest)
    return replace(source, model=files)
