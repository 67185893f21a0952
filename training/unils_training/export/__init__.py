"""Bundles: what a trained model becomes on disk, one module a family."""

from unils_training.export.bundle import BundleError, provenance_of
from unils_training.export.stream import MAX_BUNDLE_BYTES, randomise, read_bundle, write_bundle

__all__ = ["MAX_BUNDLE_BYTES", "BundleError", "provenance_of", "randomise", "read_bundle", "write_bundle"]
