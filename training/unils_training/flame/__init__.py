"""FLAME from the user's own file: a loader that runs nothing of what is inside, and a skinning layer."""

from unils_training.flame.flame_file import FlameFile, load_flame
from unils_training.flame.model import FlameMesh, FlameModel, vertex_errors
from unils_training.flame.pickle_reader import FlameFileError
from unils_training.flame.regions import FlameRegions, geometric_regions, load_masks

__all__ = [
    "FlameFile",
    "FlameFileError",
    "FlameMesh",
    "FlameModel",
    "FlameRegions",
    "geometric_regions",
    "load_flame",
    "load_masks",
    "vertex_errors",
]
