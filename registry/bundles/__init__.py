"""Bundles: deployable packages of a model or of adapters. A plugin that adds a target needs these names only."""

from .source import BundleSource, Choices
from .target import Layout, LayoutError, Target, model_layout
from .writing import BundleFolder, bundle_record, sealed_bytes

__all__ = [
    "BundleFolder",
    "BundleSource",
    "Choices",
    "Layout",
    "LayoutError",
    "Target",
    "bundle_record",
    "model_layout",
    "sealed_bytes",
]
