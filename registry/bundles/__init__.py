"""Bundles: deployable packages of a model or of adapters, written from files on this machine."""

from ..documents import BUNDLE_FORMAT
from .choices import Choices
from .source import BundledAdapter, BundleSource, Files
from .target import TARGETS, Content, Target, find_target, target_names, target_of
from .write import Written, write_bundle

__all__ = [
    "BUNDLE_FORMAT",
    "TARGETS",
    "BundleSource",
    "BundledAdapter",
    "Choices",
    "Content",
    "Files",
    "Target",
    "Written",
    "find_target",
    "target_names",
    "target_of",
    "write_bundle",
]
