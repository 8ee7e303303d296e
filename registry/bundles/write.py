"""Writing a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_never, get_args

from fusery.storage.manifest import Manifest

from .docker import write_docker
from .model import write_model
from .source import BundleSource
from .writing import BundleFolder

Target = Literal["model", "docker"]
"""What a bundle is for: `model` is a plain folder for mlx-lm, `docker` builds a server."""

TARGETS: tuple[Target, ...] = get_args(Target)


def write_bundle(source: BundleSource, target: Target, folder: Path, *, link: bool = False) -> Manifest:
    """Fill an empty folder with a bundle; the same source gives the same bytes in every file.

    Nothing of the machine is in them but what the source says, and of that no absolute path and no URL's credentials.

    Args:
        source: the fused model and its provenance.
        target: which bundle.
        folder: exists and is empty; the caller publishes it by a rename.
        link: hard links to the model's read-only files instead of copies, where the file system can.

    Returns:
        the manifest of all files of the bundle.

    Raises:
        BadInputError: the folder is not empty, or the source's name, files or provenance are not as they must be.
        DigestMismatchError: a file of the model is not what its manifest says.
        MissingFileError: a file of the model is gone.
    """
    source.check()
    bundle = BundleFolder(folder)
    if target == "model":
        write_model(source, bundle, link=link)
    elif target == "docker":
        write_docker(source, bundle, link=link)
    else:
        assert_never(target)
    return bundle.manifest()
