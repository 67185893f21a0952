"""The simulator's ARKit motion as `motioncode` of UniLS-Talk's form, and back. The expression basis is made up.

FLAME's expression basis is not ours to ship, so the numbers that stand in for it here mean something else: a FLAME
model driven with them shows no face that anyone meant. What is kept is what a model can learn from: how many numbers
there are, how they hang together, and their scales. T frames.

| channels of rig `arkit` | columns of `motioncode` |
|---|---|
| the 43 blendshapes b that are not below | 0-99: 3 b B, B being rows 1-43 of the orthonormal DCT-II of 100 points |
| headYaw, headPitch, headRoll | 100-102, axis-angle to first order: (-pitch, yaw, -roll) |
| jawOpen | 103: .039 + .472 jawOpen, which has about the published mean .075 and std .058; 104, 105 are 0 |
| eyeLookUp, -Down, -In, -Out | left eye 106, 107, right eye 109, 110: pitch down and yaw to the left; 108, 111 are 0 |

The map is affine and one to one where an eye does not look up and down, or in and out, at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unils_training.data.synth.face import EYE_RANGE
from unils_training.data.unils_talk import COLUMNS, MOTIONCODE_COLUMNS
from unils_training.rigs import ARKIT_CHANNELS

EXPRESSIONS = 100
EXPRESSION_SCALE = 3.0
JAW_REST, JAW_RANGE = 0.039, 0.472
_AT = {name: i for i, name in enumerate(ARKIT_CHANNELS)}
SHAPES = tuple(name for name in ARKIT_CHANNELS[:52] if name != "jawOpen" and not name.startswith("eyeLook"))
_SHAPE_COLUMNS = [_AT[name] for name in SHAPES]
_HEAD = [_AT[name] for name in ("headPitch", "headYaw", "headRoll")]
_HEAD_SIGNS = np.array([-1.0, 1.0, -1.0])
# Column of motioncode: the channel of its positive angles and that of its negative ones.
_EYES = {
    106: ("eyeLookDownLeft", "eyeLookUpLeft"),
    107: ("eyeLookOutLeft", "eyeLookInLeft"),
    109: ("eyeLookDownRight", "eyeLookUpRight"),
    110: ("eyeLookInRight", "eyeLookOutRight"),
}


def expression_basis() -> NDArray[np.float64]:
    """Orthonormal rows, one for each of `SHAPES`, (43, 100)."""
    row, point = np.arange(1, len(SHAPES) + 1)[:, None], np.arange(EXPRESSIONS)[None]
    return np.asarray(np.sqrt(2.0 / EXPRESSIONS) * np.cos(np.pi * (point + 0.5) * row / EXPRESSIONS))


def to_motioncode(motion: ArrayLike) -> NDArray[np.float32]:
    """Motion of rig `arkit` (T, 55) as `motioncode` (T, 112)."""
    motion = np.asarray(motion, np.float64)
    code = np.zeros((len(motion), MOTIONCODE_COLUMNS))
    code[:, :EXPRESSIONS] = EXPRESSION_SCALE * motion[:, _SHAPE_COLUMNS] @ expression_basis()
    code[:, 100:103] = motion[:, _HEAD] * _HEAD_SIGNS
    code[:, 103] = JAW_REST + JAW_RANGE * motion[:, _AT["jawOpen"]]
    for column, (positive, negative) in _EYES.items():
        code[:, column] = EYE_RANGE * (motion[:, _AT[positive]] - motion[:, _AT[negative]])
    return code.astype(np.float32)


def from_motioncode(code: ArrayLike) -> NDArray[np.float32]:
    """The ARKit motion (T, 55) that `to_motioncode` made `code` of: all its columns (T, 112), or the rig's (T, 108)."""
    code = np.asarray(code, np.float64)
    if code.shape[1] == len(COLUMNS):
        frames = code
        code = np.zeros((len(frames), MOTIONCODE_COLUMNS))
        code[:, list(COLUMNS)] = frames
    motion = np.zeros((len(code), len(ARKIT_CHANNELS)))
    motion[:, _SHAPE_COLUMNS] = code[:, :EXPRESSIONS] @ expression_basis().T / EXPRESSION_SCALE
    motion[:, _HEAD] = code[:, 100:103] * _HEAD_SIGNS
    motion[:, _AT["jawOpen"]] = (code[:, 103] - JAW_REST) / JAW_RANGE
    for column, (positive, negative) in _EYES.items():
        motion[:, _AT[positive]] = np.maximum(code[:, column], 0.0) / EYE_RANGE
        motion[:, _AT[negative]] = np.maximum(-code[:, column], 0.0) / EYE_RANGE
    return motion.astype(np.float32)
