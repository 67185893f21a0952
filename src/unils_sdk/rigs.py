"""What the numbers of a frame mean: the `arkit` and `flame` rigs, by name and by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unils_sdk.errors import InvalidArgumentError

ARKIT_BLENDSHAPES: tuple[str, ...] = (
    *("eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft"),
    *("eyeSquintLeft", "eyeWideLeft"),
    *("eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight"),
    *("eyeSquintRight", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawRight", "jawOpen"),
    *("mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight"),
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)
"""The 52 ARKit blendshapes in Live Link order; each is 0 (rest) to 1 (full)."""

HEAD_POSE: tuple[str, ...] = ("headYaw", "headPitch", "headRoll")
"""Head rotation in radians: yaw positive to the face's own left, pitch positive up, roll positive towards its own left
shoulder; applied yaw, then pitch, then roll."""

ARKIT_CHANNELS: tuple[str, ...] = ARKIT_BLENDSHAPES + HEAD_POSE
"""The channels of a frame of rig `arkit`."""

ARKIT_ALPHABETICAL: tuple[str, ...] = tuple(sorted(ARKIT_BLENDSHAPES))
"""The 52 ARKit blendshapes in alphabetical order, as Unity and MediaPipe list them."""

FLAME_CHANNELS = 108
FLAME_EXPRESSION = slice(0, 100)
FLAME_GLOBAL_POSE = slice(100, 103)  # axis-angle, radians
FLAME_JAW_POSE = slice(103, 104)  # opening; axis-angle [j, 0, 0]
FLAME_EYE_POSE = slice(104, 108)  # x pitch and y yaw of the left, then of the right eye


def reorder(values: npt.ArrayLike, channels: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.float32]:
    """The columns of `values` (..., D), named by `channels` (D names), in the order of `names`: (..., len(names)).

    >>> reorder(batch.values, batch.channels, ARKIT_ALPHABETICAL)  # for Unity or MediaPipe

    Raises `InvalidArgumentError` when a name is not among the channels.
    """
    position = {name: i for i, name in enumerate(channels)}
    missing = [name for name in names if name not in position]
    if missing:
        raise InvalidArgumentError(f"no channel named {missing[0]!r}; the channels are {', '.join(channels)}")
    return np.asarray(values, dtype=np.float32)[..., [position[name] for name in names]]
