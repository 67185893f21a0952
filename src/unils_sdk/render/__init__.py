"""A face to look at: draws frames of rig `arkit` as one of two characters, and films them.

>>> from unils_sdk.render import render_frame, render_video
>>> render_frame(frame.values, frame.channels, "ada").save("face.png")
>>> render_video("talk.mp4", [frames_of_ada, frames_of_ben], [voice_of_ada, voice_of_ben])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from unils_sdk.errors import InvalidArgumentError
from unils_sdk.render.anatomy import Motion
from unils_sdk.render.characters import CHARACTERS, Character
from unils_sdk.render.portrait import draw_portrait

__all__ = ["CHARACTERS", "Character", "render_frame"]


def render_frame(
    values: npt.ArrayLike, channels: Sequence[str], character: str | Character = "ada", *, size: int = 640
) -> Image.Image:
    """Draw one frame: an RGB picture, `size` pixels square (64 to 2048).

    values: (D,) numbers, blendshapes 0 to 1 and head angles in radians; what lies outside is clipped.
    channels: their D names, in any order; an ARKit name or head angle that is not among them is 0.
    character: a key of `CHARACTERS`, or a `Character` of your own.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(channels),):
        raise InvalidArgumentError(f"values must be one frame, ({len(channels)},) as channels, not {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise InvalidArgumentError("values hold NaN or infinity; a frame must be finite")
    if "jawOpen" not in channels:
        raise InvalidArgumentError("only frames of rig 'arkit' can be drawn: channels name no jawOpen")
    if not 64 <= size <= 2048:
        raise InvalidArgumentError(f"size must be 64 to 2048 pixels, not {size}")
    if isinstance(character, str):
        if character not in CHARACTERS:
            raise InvalidArgumentError(f"there is no character {character!r}; take one of {', '.join(CHARACTERS)}")
        character = CHARACTERS[character]
    return draw_portrait(character, Motion(numbers, channels), size)
