"""A made-up face in the layout of FLAME, small, with numbers drawn at random. FLAME itself does not ship."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

EYES = ((0.03, 0.0, 0.03), (-0.03, 0.0, 0.03))  # d = 0.06
PARENTS = np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64)


def flame_arrays(seed: int = 0, identities: int = 4) -> dict[str, np.ndarray]:
    """The arrays of a model with 5 joint vertices, 20 of eyeballs, and a sheet of 11 x 9 over the face."""
    rng = np.random.default_rng(seed)
    joints = np.array([(0.0, -0.15, 0.0), (0.0, -0.1, -0.02), (0.0, -0.03, -0.01), *EYES])
    eyeballs = np.concatenate([np.array(eye) + 0.01 * rng.normal(size=(10, 3)) for eye in EYES])
    y, x = np.meshgrid(np.linspace(-0.1, 0.1, 11), np.linspace(-0.06, 0.06, 9), indexing="ij")
    sheet = np.stack((x.ravel(), y.ravel(), 0.06 - 5.0 * x.ravel() ** 2), axis=1)
    template = np.concatenate((joints, eyeballs, sheet))
    vertices = len(template)
    regressor = np.zeros((5, vertices))
    regressor[np.arange(5), np.arange(5)] = 1.0
    weights = rng.dirichlet(np.ones(3), size=vertices)
    weights = np.concatenate((weights, np.zeros((vertices, 2))), axis=1)
    weights[5:15], weights[15:25] = np.eye(5)[3], np.eye(5)[4]
    return {
        "v_template": template,
        "f": np.array([[i, i + 1, i + 2] for i in range(vertices - 2)], np.uint32),
        "shapedirs": 0.002 * rng.normal(size=(vertices, 3, identities + 100)),
        "posedirs": 0.002 * rng.normal(size=(vertices, 3, 36)),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": PARENTS,
    }


def write_flame(path: Path, arrays: dict[str, Any] | None = None, protocol: int = 2) -> Path:
    """Pickles the arrays as FLAME 2023 has them: plain numpy, joints' regressor sparse."""
    arrays = flame_arrays() if arrays is None else arrays
    content = {**arrays, "bs_type": "lrotmin"}
    if isinstance(content.get("J_regressor"), np.ndarray):
        content["J_regressor"] = scipy.sparse.csc_matrix(content["J_regressor"])
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_masks(path: Path) -> Path:
    """Masks under FLAME's names, over the made-up face."""
    masks = {
        "lips": np.arange(40, 52),
        "forehead": np.arange(100, 115),
        "eye_region": np.arange(85, 102),
        "left_eyeball": np.arange(5, 15),
    }
    path.write_bytes(pickle.dumps(masks, 2))
    return path
