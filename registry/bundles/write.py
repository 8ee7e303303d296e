"""Writing a bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fusery.storage.manifest import Manifest

from .choices import Choices
from .layout import Layout
from .source import BundleSource
from .target import Target
from .writing import BundleFolder


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle in a local folder: its files, and what its consumer finds in them."""

    manifest: Manifest
    layout: Layout


def write_bundle(source: BundleSource, target: Target, folder: Path, choices: Choices) -> Written:
    """Fill an empty folder with a bundle, and read it again; the same source gives the same bytes in every file.

    The files hold nothing about this machine but what the source has, without absolute paths and credentials in URLs.

    Args:
        source: what goes in, and its provenance.
        target: which bundle.
        folder: exists and is empty; the caller puts it in its place.
        choices: options of the target.

    Raises:
        BadInputError: the folder is not empty, or the source's name, files or provenance are not as they must be.
        DigestMismatchError: a file of the model is not what its manifest says.
        MissingFileError: a file of the model is gone.
        LayoutError: the target's consumer would not find in it what is meant.
        PluginError: the target is a plugin's, and failed.
    """
    if target.plugin is not None:
        source = replace(source, provenance={**source.provenance, "plugin": str(target.plugin)})
    source.check()
    bundle = BundleFolder(folder)
    target.write(source, bundle, choices)
    return Written(bundle.manifest(), target.check(folder))
