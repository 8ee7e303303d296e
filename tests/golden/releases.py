"""The releases whose artifacts are here, unpacked once for a run of the tests."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
RELEASES = sorted(
    (path.parent.name for path in HERE.glob("*/artifacts.tar.xz")),
    key=lambda name: [int(part) for part in name.split(".")],
)
"""From the oldest to the newest."""

_unpacked: dict[str, Path] = {}


def unpacked(release: str, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a release's artifacts; not to be changed."""
    if release not in _unpacked:
        folder = factory.mktemp(f"golden-{release}")
        with tarfile.open(HERE / release / "artifacts.tar.xz", "r:xz") as archive:
            archive.extractall(folder, filter="data")
        _unpacked[release] = folder
    return _unpacked[release]
