"""A face to look at: draws frames of rig `arkit` as one of two characters, and films them.

>>> from unils_sdk.render import render_frame, render_video
>>> render_frame(frame.values, frame.channels, "ada").save("face.png")
>>> render_video("talk.mp4", [frames_of_ada, frames_of_ben], [voice_of_ada, voice_of_ben])
"""

from __future__ import annotations

from unils_sdk.render.characters import CHARACTERS, Character
from unils_sdk.render.portrait import render_frame
from unils_sdk.render.video import render_video

__all__ = ["CHARACTERS", "Character", "render_frame", "render_video"]
