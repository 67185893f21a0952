"""Draws one character in one pose, from the back to the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from unils_sdk.errors import InvalidArgumentError
from unils_sdk.render import skin
from unils_sdk.render.anatomy import Head, Motion
from unils_sdk.render.body import background, draw_ear, draw_neck_and_clothes
from unils_sdk.render.characters import Character, find_character
from unils_sdk.render.eyes import draw_brow, draw_eye
from unils_sdk.render.hair import draw_back_hair, draw_front_hair
from unils_sdk.render.mouth import draw_mouth
from unils_sdk.render.scene import Scene
from unils_sdk.render.vector import WHITE, Painter, Points, blend, ellipse, ribbon, smooth, taper


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
    check_size(size)
    return _draw(find_character(character), Motion(numbers, channels), size)


def check_size(size: int) -> None:
    """Raises `InvalidArgumentError` for a portrait that cannot be drawn."""
    if not 64 <= size <= 2048:
        raise InvalidArgumentError(f"size must be 64 to 2048 pixels, not {size}")


def _draw(character: Character, motion: Motion, size: int) -> Image.Image:
    image = background(character, size).copy()
    scene = Scene(Painter(image), Head(character, motion, size))
    draw_back_hair(scene)
    draw_neck_and_clothes(scene)
    if character.hair_style != "bob":
        for side in (-1, 1):
            draw_ear(scene, side)
    _draw_skin(scene)
    _draw_folds(scene)
    _draw_nose(scene)
    for side in (-1, 1):
        draw_eye(scene, side)
    draw_mouth(scene)
    draw_front_hair(scene)
    for side in (-1, 1):
        draw_brow(scene, side)
    return image


def _draw_skin(scene: Scene) -> None:
    """Lit skin and the colours on it: cheeks, lids, tip of the nose, stubble."""
    painter, head, motion, character, unit = scene.painter, scene.head, scene.motion, scene.character, scene.unit
    if scene.skin is None:
        return
    painter.pour(scene.skin, skin.shade(head, scene.outline, scene.skin.box))
    shade = character.skin[1]
    if character.stubble:
        beard = smooth(head.project(head.on_jaw(_BEARD)), 5, closed=True)
        stubble = blend(character.hair[1], shade, 0.45)
        painter.fill(beard, stubble, 0.20 * character.stubble, blur=0.08 * unit, clip=scene.skin)
    for side in (-1, 1):
        smile = motion.side("mouthSmile", side)
        cheek = head.on_face(np.array([[side * 0.60, -0.40 + 0.08 * smile]]))
        x, y = head.project(cheek)[0]
        visible = float(np.clip(head.facing(cheek)[0], 0.15, 1.0))
        glow = ellipse((x, y), 0.25 * unit * visible, 0.19 * unit)
        painter.fill(glow, character.blush, 0.30 + 0.10 * smile, blur=0.12 * unit, clip=scene.skin)
        x, y = head.face_points(np.array([[side * 0.42, 0.20]]))[0]
        lid = ellipse((x, y), 0.27 * unit, 0.13 * unit, side * -0.1)
        painter.fill(lid, blend(character.lid, shade, 0.4), 0.36, blur=0.07 * unit, clip=scene.skin)
    x, y = head.face_points(np.array([[0.0, -0.29]]), 0.2)[0]
    tip = ellipse((x, y), 0.15 * unit, 0.11 * unit)
    painter.fill(tip, character.blush, 0.22, blur=0.07 * unit, clip=scene.skin)


_BEARD = np.array(
    [
        [-0.86, -0.30],
        [-0.62, -0.52],
        [-0.44, -0.58],
        [0.00, -0.48],
        [0.44, -0.58],
        [0.62, -0.52],
        [0.86, -0.30],
        [0.84, -0.72],
        [0.60, -1.05],
        [0.30, -1.27],
        [0.00, -1.29],
        [-0.30, -1.27],
        [-0.60, -1.05],
        [-0.84, -0.72],
    ]
)


def _draw_folds(scene: Scene) -> None:
    """Creases that expressions make."""
    motion = scene.motion
    for side in (-1, 1):
        smile, dimple, sneer = (motion.side(name, side) for name in ("mouthSmile", "mouthDimple", "noseSneer"))
        mouth = scene.character.mouth
        lift = 0.75 * smile + 0.45 * dimple + 0.55 * sneer + 0.35 * motion.side("mouthStretch", side)
        cheek = [
            [side * 0.20 * scene.character.nose, -0.31 + 0.06 * sneer],
            [side * (0.37 + 0.06 * smile), -0.44],
            [side * (mouth + 0.13 + 0.10 * smile), -0.69 + 0.08 * smile],
        ]
        depth = min(1.0, 0.10 + lift + 0.2 * motion.side("mouthUpperUp", side))
        _crease(scene, scene.head.on_face(np.array(cheek)), 0.05, 0.42 * depth, 0.022)

        corner = np.array([[mouth + 0.02, -0.77], [mouth + 0.07, -0.85], [mouth + 0.05, -0.95]]) * np.array([side, 1.0])
        _crease(scene, scene.head.on_jaw(corner), 0.045, 0.40 * motion.side("mouthFrown", side), 0.018)
        spot = np.array([[mouth + 0.14, -0.66], [mouth + 0.16, -0.71], [mouth + 0.14, -0.76]]) * np.array([side, 1.0])
        _crease(scene, scene.head.on_face(spot), 0.05, 0.60 * dimple, 0.014)

        squint = max(motion.side("eyeSquint", side), motion.side("cheekSquint", side), 0.5 * smile)
        under_eye = np.array([[side * 0.22, -0.10], [side * 0.40, -0.155 + 0.03 * squint], [side * 0.60, -0.09]])
        _crease(scene, scene.head.on_face(under_eye), 0.04, 0.10 + 0.30 * squint, 0.02)
        for row in (0, 1):
            bridge = np.array([[0.05, 0.02], [0.085, -0.005], [0.12, -0.04]]) - np.array([0.0, 0.055 * row])
            _crease(scene, scene.head.on_face(bridge * np.array([side, 1.0]), 0.08), 0.026, 0.45 * sneer, 0.012)
        frown = motion.side("browDown", side)
        x = side * (0.09 - 0.02 * frown)
        between = np.array([[x * 1.1, 0.58], [x, 0.47], [x * 1.15, 0.36]])
        _crease(scene, scene.head.on_face(between), 0.035, 0.45 * frown, 0.014)
    surprise = max(motion["browInnerUp"], 0.8 * motion.both("browOuterUp"))
    for row in range(3):
        y = 0.66 + 0.085 * row
        wave = np.array([[-0.42, y - 0.02], [-0.2, y + 0.02], [0.0, y], [0.2, y + 0.02], [0.42, y - 0.02]])
        _crease(scene, scene.head.on_face(wave), 0.024, 0.24 * surprise, 0.016)


def _crease(scene: Scene, points: Points, width: float, opacity: float, blur: float) -> None:
    """A soft dark line through head-space points (n, 3); lengths in head units."""
    if opacity < 0.01:
        return
    (deep, shade), unit = scene.character.skin[:2], scene.unit
    line = smooth(scene.head.project(points))
    stroke = ribbon(line, taper(len(line), 0.3 * width * unit, width * unit, 0.2 * width * unit))
    scene.painter.fill(stroke, blend(deep, shade, 0.55), opacity, blur=blur * unit, clip=scene.skin)


def _draw_nose(scene: Scene) -> None:
    """Nostrils, wings, the shadow under the nose and the light on its tip; its body is in the shading of the skin."""
    painter, head, motion, character, unit = scene.painter, scene.head, scene.motion, scene.character, scene.unit
    wide, deep, shade = character.nose, character.skin[0], character.skin[1]
    dark = blend(deep, shade, 0.25)
    scale = np.array([wide, 1.0])
    under = smooth(head.face_points(_UNDER_NOSE * scale, 0.06), 5, closed=True)
    painter.fill(under, dark, 0.34, blur=0.032 * unit)
    for side in (-1, 1):
        sneer = motion.side("noseSneer", side)
        lift = np.array([0.0, 0.04 * sneer])
        mirror = np.array([side, 1.0])
        nostril = (_NOSTRIL + np.array([(0.088 + 0.012 * sneer) * wide, 0.0]) + lift) * mirror
        hollow = smooth(head.face_points(nostril, 0.17), 6, closed=True)
        painter.fill(hollow, blend(deep, (30, 8, 10), 0.35), 0.80, blur=0.006 * unit)
        wing = smooth(head.face_points((_WING * scale + lift) * mirror, 0.09), 6)
        width = taper(len(wing), 0.006 * unit, 0.030 * unit, 0.008 * unit)
        painter.fill(ribbon(wing, width), dark, 0.40 + 0.25 * sneer, blur=0.010 * unit)
    x, y = head.face_points(np.array([[-0.03, -0.24]]), 0.30)[0]
    painter.fill(ellipse((x, y), 0.045 * unit, 0.032 * unit, -0.4), WHITE, 0.34, blur=0.018 * unit)


_UNDER_NOSE = np.array(
    [
        [-0.17, -0.365],
        [-0.08, -0.385],
        [0.0, -0.40],
        [0.08, -0.385],
        [0.17, -0.365],
        [0.10, -0.43],
        [0.0, -0.445],
        [-0.10, -0.43],
    ]
)
_NOSTRIL = np.array([[-0.048, -0.365], [0.0, -0.345], [0.050, -0.36], [0.02, -0.376]])
_WING = np.array([[0.185, -0.255], [0.212, -0.31], [0.19, -0.36], [0.145, -0.372]])
