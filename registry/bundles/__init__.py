"""Bundles: deployable packages of a model or of adapters. A plugin that adds a target needs these names only."""

from ..documents import BUNDLE_FORMAT
from .source import BundledAdapter, BundleSource, Choices, Files
from .target import (
    Content,
    Layout,
    LayoutError,
    Target,
    Written,
    find_target,
    model_layout,
    own_targets,
    target_names,
    target_of,
    write_bundle,
)
from .writing import BundleFolder, bundle_record, sealed_bytes

__all__ = [
    "BUNDLE_FORMAT",
    "BundleFolder",
    "BundleSource",
    "BundledAdapter",
    "Choices",
    "Content",
    "Files",
    "Layout",
    "LayoutError",
    "Target",
    "Written",
    "bundle_record",
    "find_target",
    "model_layout",
    "own_targets",
    "sealed_bytes",
    "target_names",
    "target_of",
    "write_bundle",
]
