"""Bundles: deployable folders written from a fused model that is in the local cache."""

from .record import BUNDLE_FORMAT
from .source import BundleSource
from .write import TARGETS, Target, write_bundle

__all__ = ["BUNDLE_FORMAT", "TARGETS", "BundleSource", "Target", "write_bundle"]
