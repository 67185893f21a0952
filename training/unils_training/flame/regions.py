"""Which vertices of FLAME are lips, and which upper face.

FLAME publishes regions beside the model, as `FLAME_masks.pkl`; the user gives that file too. Without it both regions
are cut out of the mean face by distances, which is close but not the same: figures made so do not compare with
published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unils_training.flame.flame_file import FlameFile, Ints
from unils_training.flame.pickle_reader import FlameFileError, as_array, read_pickle

LIP_MASKS = ("lips",)
UPPER_FACE_MASKS = ("forehead", "eye_region")
EYE_JOINTS = (3, 4)


@dataclass(frozen=True)
class FlameRegions:
    """Vertex indices, ascending."""

    lips: Ints
    upper_face: Ints
    source: Literal["masks", "geometry"]


def load_masks(path: str | Path, vertices: int) -> FlameRegions:
    """Regions of `FLAME_masks.pkl`: lips; forehead and the eyes' region (without the eyeballs) as upper face.

    Raises:
        FlameFileError: unreadable, a mask is missing, or names vertices that there are not.
    """
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise FlameFileError(f"{path} holds no dictionary, so it holds no FLAME masks")

    def union(names: tuple[str, ...]) -> Ints:
        parts = []
        for name in names:
            if name not in content:
                raise FlameFileError(f"{path} has no mask {name!r}, so it holds no FLAME masks")
            try:
                part = as_array(content[name], f"mask {name!r}")
            except FlameFileError as error:
                raise FlameFileError(f"{path}: {error}") from error
            if part.ndim != 1 or part.size == 0 or part.min() < 0 or part.max() >= vertices:
                raise FlameFileError(f"{path}: mask {name!r} is no list of vertices of a model of {vertices}")
            parts.append(part.astype(np.int64))
        return np.unique(np.concatenate(parts))

    return FlameRegions(union(LIP_MASKS), union(UPPER_FACE_MASKS), "masks")


def geometric_regions(flame: FlameFile) -> FlameRegions:
    """Regions by distances on the mean face, in units of the distance d of the eyes' joints (x left, y up, z forward).

    Lips: in front of the eyes' joints, within .45 d of the middle, .8 to 1.3 d below the eyes (an adult's lips meet
    about 1.1 d below the pupils). Upper face: not farther back than .5 d behind the eyes' joints, from .35 d below the
    eyes to 1.2 d above them, eyeballs excluded.

    Raises:
        FlameFileError: either region is empty, so the model is no face in FLAME's pose.
    """
    left, right = (flame.joint_regressor @ flame.template)[list(EYE_JOINTS)]
    distance = float(np.linalg.norm(left - right))
    if distance <= 0.0:
        raise FlameFileError(
            "the eyes of this FLAME model are in one place, so its regions cannot be found: give a masks file"
        )
    x, y, z = ((flame.template - (left + right) / 2.0) / distance).T
    eyeball = flame.skinning_weights[:, list(EYE_JOINTS)].sum(axis=1) > 0.5
    lips = np.flatnonzero((z > 0.0) & (np.abs(x) <= 0.45) & (y >= -1.3) & (y <= -0.8) & ~eyeball)
    upper_face = np.flatnonzero((z >= -0.5) & (y >= -0.35) & (y <= 1.2) & ~eyeball)
    if not len(lips) or not len(upper_face):
        raise FlameFileError("no lips or no upper face where a face in FLAME's pose has them: give a masks file")
    return FlameRegions(lips, upper_face, "geometry")
