"""What every part of the drawing needs to know about the picture being made."""

from __future__ import annotations

from dataclasses import dataclass, field

from unils_sdk.render.anatomy import Head, Motion
from unils_sdk.render.characters import Character
from unils_sdk.render.vector import Mask, Painter, Points


@dataclass
class Scene:
    """One character in one pose on one canvas."""

    painter: Painter
    head: Head
    outline: Points = field(init=False)
    """The edge of the face on the picture (n, 2): its right side upwards, then its left side downwards."""
    skin: Mask | None = field(init=False)
    """The face and the skull."""

    def __post_init__(self) -> None:
        self.outline = self.head.face_outline()
        self.skin = self.painter.mask([self.outline, self.head.cranium()], supersample=3)

    @property
    def character(self) -> Character:
        return self.head.character

    @property
    def motion(self) -> Motion:
        return self.head.motion

    @property
    def unit(self) -> float:
        """Pixels per head unit; widths of strokes and blurs are given in it."""
        return self.head.unit
