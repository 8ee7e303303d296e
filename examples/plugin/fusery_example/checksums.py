"""The target `checksums`: a fused model, and a list that `sha256sum -c SHA256SUMS` checks where there is no fusery."""

from __future__ import annotations

from pathlib import Path

from fusery.registry.bundles import (
    BundleFolder,
    BundleSource,
    Choices,
    Layout,
    LayoutError,
    Target,
    bundle_record,
    model_layout,
    sealed_bytes,
)
from fusery.storage.digest import digest_file

LIST = "SHA256SUMS"

TARGET = Target("checksums", "fusery_example.checksums")


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the model's files, the list of their digests, and fusery.json, which lists all of it and comes last."""
    bundle.copy(source.fused, link=choices.link)
    lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in source.fused.manifest)
    bundle.write(LIST, lines.encode())
    bundle.write("fusery.json", sealed_bytes(bundle_record(source, TARGET.name, "."), bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the model as its consumers do, and check the list as sha256sum does."""
    layout = model_layout(folder)
    try:
        lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LayoutError(f"the bundle has no {LIST}") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        if digest_file(folder / name)[0] != digest:
            raise LayoutError(f"{name} is not what {LIST} says")
    return layout
