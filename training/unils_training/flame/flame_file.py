"""What a FLAME file holds, checked. The user gives the file: FLAME 2020 or FLAME 2023 Open, as downloaded.

V vertices, F triangles, J joints (root, neck, jaw, left eye, right eye).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unils_training.flame.pickle_reader import FlameFileError, as_array, read_pickle

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EXPRESSIONS = 100
JOINTS = ("root", "neck", "jaw", "left eye", "right eye")
MAX_VERTICES = 100_000


@dataclass(frozen=True)
class FlameFile:
    """The arrays of a FLAME model, in metres."""

    template: Floats  # (V, 3) the mean face
    triangles: Ints  # (F, 3)
    shape_directions: Floats  # (V, 3, n) identity
    expression_directions: Floats  # (V, 3, 100)
    pose_directions: Floats  # (V, 3, 9 (J - 1))
    joint_regressor: Floats  # (J, V)
    skinning_weights: Floats  # (V, J)
    parents: tuple[int, ...]  # (J,); -1 for the root


def load_flame(path: str | Path) -> FlameFile:
    """Reads `generic_model.pkl` or `flame2023.pkl` without chumpy, and without running anything of what is inside.

    Its blendshapes are 300 of identity and 100 of expression; a file with another number of identity blendshapes will
    do, as the last 100 are taken for expression.

    Raises:
        FlameFileError: unreadable, or not a FLAME model.
    """
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise FlameFileError(f"{path} holds no dictionary, so it is no FLAME model")

    def array(key: str) -> NDArray[Any]:
        if key not in content:
            known = ", ".join(sorted(str(name)[:40] for name in list(content)[:20]))
            raise FlameFileError(f"{path} has no {key!r}, so it is no FLAME model; it has {known}")
        try:
            return as_array(content[key], repr(key))
        except FlameFileError as error:
            raise FlameFileError(f"{path}: {error}") from error

    def floats(key: str, *shape: int | None) -> Floats:
        values = array(key).astype(np.float64)
        fits = values.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise FlameFileError(f"{path}: {key!r} has the shape {values.shape}, not ({wanted})")
        if not np.isfinite(values).all():
            raise FlameFileError(f"{path}: {key!r} holds NaN or infinity")
        return values

    joints = len(JOINTS)
    template = floats("v_template", None, 3)
    vertices = len(template)
    if not 0 < vertices <= MAX_VERTICES:
        raise FlameFileError(f"{path} has {vertices} vertices; FLAME has 5023")
    directions = floats("shapedirs", vertices, 3, None)
    if directions.shape[2] < EXPRESSIONS:
        count = directions.shape[2]
        raise FlameFileError(
            f"{path} has {count} blendshapes; FLAME has 300 of identity and {EXPRESSIONS} of expression"
        )
    triangles = floats("f", None, 3).astype(np.int64)
    if triangles.size and (triangles.min() < 0 or triangles.max() >= vertices):
        raise FlameFileError(f"{path}: 'f' names vertices that there are not")
    tree = floats("kintree_table", 2, joints)[0]
    # The root's parent is -1, kept as the largest unsigned 32-bit number.
    parents = tuple(-1 if joint == 0 else int(parent) for joint, parent in enumerate(tree))
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents) if joint):
        raise FlameFileError(f"{path}: 'kintree_table' is no tree of joints with parents first")
    return FlameFile(
        template=template,
        triangles=triangles,
        shape_directions=directions[:, :, :-EXPRESSIONS],
        expression_directions=directions[:, :, -EXPRESSIONS:],
        pose_directions=floats("posedirs", vertices, 3, 9 * (joints - 1)),
        joint_regressor=floats("J_regressor", joints, vertices),
        skinning_weights=floats("weights", vertices, joints),
        parents=parents,
    )
