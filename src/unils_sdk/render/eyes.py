"""Eyes, lids, lashes and brows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops

from unils_sdk.render.anatomy import smoothstep
from unils_sdk.render.scene import Scene
from unils_sdk.render.vector import WHITE, Colour, Gradient, Mask, Points, blend, ellipse, ribbon, smooth, taper

_ACROSS = 0.425  # of an eye's centre from the middle of the face, in head units
_EYEBALL, _IRIS = 0.33, 0.158  # radii
_LOOK = 0.55  # radians that an eyeLook shape of 1 turns the eyeball
_LASH: Colour = (14, 8, 12)


@dataclass(frozen=True)
class EyeShape:
    """The lids of one eye on the picture, (25, 2) from the inner corner to the outer."""

    side: int  # 1 is the face's own left
    upper: Points
    lower: Points
    crease: Points

    @property
    def opening(self) -> float:
        """Pixels between the lids where they are furthest apart."""
        return float(np.max(np.hypot(*(self.upper - self.lower).T)))


def eye_shape(scene: Scene, side: int) -> EyeShape:
    """Where the lids are: both lids meet on one line at a blink of 1."""
    motion, height = scene.motion, scene.character.eye
    blink, wide = motion.side("eyeBlink", side), motion.side("eyeWide", side)
    squint = max(
        motion.side("eyeSquint", side), 0.55 * motion.side("cheekSquint", side), 0.35 * motion.side("mouthSmile", side)
    )
    up, down = motion.side("eyeLookUp", side), motion.side("eyeLookDown", side)
    s = np.linspace(-1, 1, 25)
    arch = (1 - np.abs(s) ** 2.3) ** 0.9
    base = 0.055 + 0.028 * s
    # The upper lid peaks a little towards the nose, the lower one a little away from it; lids follow the gaze.
    upper = base + 0.178 * height * (1 + 0.30 * wide + 0.10 * up - 0.34 * down - 0.16 * squint) * arch * (1 - 0.10 * s)
    lower = base - 0.125 * height * (1 + 0.10 * wide - 0.75 * squint + 0.10 * down) * arch * (1 + 0.12 * s)
    closed = base - 0.055 * height * arch * (1 + 0.1 * s)
    shut = 0.35 * smoothstep(blink, 0.0, 1.0) + 0.65 * blink
    crease = base + (0.190 + 0.03 * wide - 0.02 * down) * height * (1 - np.abs(s * 0.96) ** 2.3) ** 0.8
    crease += 0.045 - 0.05 * shut
    x = side * (_ACROSS + 0.245 * s)
    lift = -0.09 + 0.13 * (1 - s * s)
    lines = [
        scene.head.face_points(np.stack([x, y], axis=1), lift)
        for y in (upper + (closed - upper) * shut, lower + (closed - lower) * shut, crease)
    ]
    return EyeShape(side, *lines)


def draw_eye(scene: Scene, side: int) -> None:
    """One eye with its lid and lashes."""
    painter, character, unit = scene.painter, scene.character, scene.unit
    eye = eye_shape(scene, side)
    blink = scene.motion.side("eyeBlink", side)
    skin = character.skin
    painter.fill(
        np.concatenate([eye.crease, eye.upper[::-1]]), blend(character.lid, skin[2], 0.35), 0.55, blur=0.012 * unit
    )
    bulge = ((eye.crease + eye.upper) / 2)[6:19]
    shine = blend(skin[4], WHITE, 0.3)
    painter.fill(ribbon(bulge, taper(13, 0.0, 0.035 * unit, 0.0)), shine, 0.16 + 0.22 * blink, blur=0.022 * unit)
    fold = ribbon(eye.crease, taper(25, 0.006 * unit, 0.022 * unit, 0.008 * unit))
    painter.fill(fold, blend(skin[0], skin[1], 0.2), 0.70 - 0.35 * blink, blur=0.006 * unit)

    if eye.opening > 1.0:
        aperture = painter.mask(np.concatenate([eye.upper, eye.lower[::-1]]), supersample=6)
        if aperture is not None:
            _draw_eyeball(scene, eye, aperture)
    _draw_lashes(scene, eye, blink)


def _draw_eyeball(scene: Scene, eye: EyeShape, aperture: Mask) -> None:
    painter, unit, side = scene.painter, scene.unit, eye.side
    low, high = eye.upper.min(axis=0), eye.lower.max(axis=0)
    white = ((226, 214, 216), (252, 250, 250), (246, 236, 234))
    painter.pour(aperture, Gradient((0, float(low[1])), (0, float(high[1])), white))
    inner, outer = eye.lower[0], eye.lower[-1]
    duct = ellipse((inner[0] + side * 0.02 * unit, inner[1]), 0.045 * unit, 0.035 * unit)
    painter.fill(duct, (226, 150, 144), 0.8, blur=0.012 * unit, clip=aperture)
    corner = ellipse((outer[0], outer[1]), 0.10 * unit, 0.10 * unit)
    painter.fill(corner, scene.character.skin[0], 0.25, blur=0.03 * unit, clip=aperture)

    centre, across, above = _iris_frame(scene, side)
    texture = _iris(*scene.character.iris)
    # The iris is a picture on a tilted disc: an affine map from the aperture's box into it.
    matrix = np.stack([across, -above], axis=1) / 61.0
    if abs(np.linalg.det(matrix)) > 1e-6:
        inverse = np.linalg.inv(matrix)
        start = inverse @ (np.array([aperture.x, aperture.y]) - centre) + 63.5
        data = (inverse[0, 0], inverse[0, 1], start[0], inverse[1, 0], inverse[1, 1], start[1])
        tile = texture.transform(aperture.image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        coverage = ImageChops.multiply(tile.getchannel("A"), aperture.image)
        painter.image.paste(tile.convert("RGB"), aperture.box, coverage)

    under_lid = ribbon(eye.upper + np.array([0.0, 0.02 * unit]), 0.085 * unit)
    painter.fill(under_lid, (40, 24, 34), 0.55, blur=0.022 * unit, clip=aperture)
    for x, y, radius, opacity in ((-0.055, -0.065, 0.043, 0.96), (0.062, 0.070, 0.020, 0.5)):
        light = ellipse((centre[0] + x * unit, centre[1] + y * unit), radius * unit, radius * unit)
        painter.fill(light, WHITE, opacity, clip=aperture, supersample=6)
    wet = ribbon(eye.lower - np.array([0.0, 0.008 * unit]), 0.014 * unit)
    painter.fill(wet, (255, 226, 220), 0.55, clip=aperture)


def _iris_frame(scene: Scene, side: int) -> tuple[Points, Points, Points]:
    """Centre of the iris on the picture and its two radii, towards the face's left and upwards, in pixels (2,)."""
    motion, head = scene.motion, scene.head
    centre = head.on_face(np.array([[side * _ACROSS, 0.075]]), -0.30)[0]
    yaw = _LOOK * side * (motion.side("eyeLookOut", side) - motion.side("eyeLookIn", side))
    pitch = _LOOK * (motion.side("eyeLookUp", side) - motion.side("eyeLookDown", side))
    forward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    across = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    above = np.cross(forward, across)
    middle = centre + forward * np.sqrt(_EYEBALL**2 - _IRIS**2)
    points = head.project(np.array([middle, middle + across * _IRIS, middle + above * _IRIS]))
    return points[0], points[1] - points[0], points[2] - points[0]


def _draw_lashes(scene: Scene, eye: EyeShape, blink: float) -> None:
    """A thick upper line that ends in a wing, its lashes, and a thin lower line."""
    painter, character, unit = scene.painter, scene.character, scene.unit
    colour, length = blend(character.hair[0], _LASH, 0.6), character.lash
    width = taper(25, 0.014 * unit, (0.034 + 0.024 * length) * unit, (0.014 + 0.028 * length) * unit)
    painter.fill(ribbon(eye.upper - np.array([0.0, 0.006 * unit]), width), colour, supersample=5)
    closing = smoothstep(blink, 0.35, 1.0)
    lashes = []
    for index, reach in ((14, 0.055), (17, 0.075), (19, 0.09), (21, 0.105), (23, 0.11), (24, 0.10)):
        outward = np.array([eye.side * 0.55 * (index - 8) / 16, -0.75 + 1.35 * closing])
        outward /= float(np.hypot(*outward))
        root = eye.upper[index] - np.array([0.0, 0.01 * unit])
        tip = root + outward * reach * length * unit
        bend = (root + tip) / 2 + np.array([eye.side * 0.012, 0.016 * (1 - 2 * closing)]) * unit
        curve = smooth(np.array([root, bend, tip]), 4)
        lashes.append(ribbon(curve, taper(len(curve), 0.030 * unit, 0.016 * unit, 0.002 * unit)))
    painter.fill(lashes, colour, supersample=5)
    lower = ribbon(eye.lower[3:], taper(22, 0.004 * unit, 0.014 * unit, 0.018 * unit))
    painter.fill(lower, blend(colour, character.skin[0], 0.45), 0.45 + 0.3 * length)


@lru_cache(maxsize=8)
def _iris(rim: Colour, inner: Colour) -> Image.Image:
    """An iris with its pupil, 128 pixels square, RGBA."""
    y, x = (np.mgrid[0:128, 0:128].astype(np.float64) - 63.5) / 61.0
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    rng = np.random.default_rng(7)
    fibres = sum(np.cos(frequency * angle + rng.uniform(0, 6.28)) for frequency in (17, 29, 43, 61)) / 4
    glow = np.clip(0.5 + 0.75 * y, 0, 1)  # light that entered from above leaves below
    amount = np.clip(1.15 - radius + 0.16 * fibres * radius + 0.35 * (glow - 0.4), 0, 1)[:, :, None]
    colour = np.array(rim) + (np.array(inner) - np.array(rim)) * amount
    colour = colour * (1 - 0.62 * np.clip((radius - 0.82) / 0.18, 0, 1)[:, :, None])
    pupil = np.clip((0.44 - radius) / 0.05, 0, 1)[:, :, None]
    colour = colour * (1 - pupil) + np.array([16, 12, 16]) * pupil
    alpha = np.clip((1.0 - radius) * 26, 0, 1)[:, :, None] * 255
    return Image.fromarray(np.concatenate([np.clip(colour, 0, 255), alpha], axis=2).astype(np.uint8))


def draw_brow(scene: Scene, side: int) -> None:
    """One eyebrow: a tapered body with hairs on it."""
    painter, character, motion, unit = scene.painter, scene.character, scene.motion, scene.unit
    down, inner, outer = motion.side("browDown", side), motion["browInnerUp"], motion.side("browOuterUp", side)
    x = np.array([0.165, 0.30, 0.46, 0.62, 0.78]) + 0.01 * inner
    x -= down * np.array([0.045, 0.03, 0.015, 0.0, 0.0])
    y = np.array([0.410, 0.465, 0.500, 0.485, 0.400]) + character.brow_height
    y += inner * np.array([0.155, 0.11, 0.045, 0.0, -0.01]) + outer * np.array([0.0, 0.055, 0.125, 0.145, 0.09])
    y -= down * np.array([0.135, 0.105, 0.065, 0.03, 0.0])
    y -= 0.02 * motion.side("eyeBlink", side) + 0.015 * motion.side("eyeSquint", side)
    line = smooth(scene.head.face_points(np.stack([side * x, y], axis=1), 0.035), 7)
    t = np.linspace(0, 1, len(line))
    width = character.brow_thickness * unit * (0.62 + 0.95 * t * (1 - t) + 0.20 * (1 - t) - 0.62 * t**3)
    painter.fill(ribbon(line, width), character.brow, 0.92, blur=0.010 * unit)

    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-6)[:, None]
    hairs = []
    for index in range(1, len(line) - 2, 2):
        upright = 0.95 - 1.1 * t[index]  # hairs stand nearly upright at the nose and lie along the brow at its tail
        normal = np.array([tangent[index, 1], -tangent[index, 0]]) * side
        root = line[index] - normal * width[index] * 0.42
        tip = root + (normal * (0.35 + 0.55 * upright) + tangent[index] * 0.8) * width[index] * 1.05
        hairs.append(ribbon(np.array([root, (root + tip) / 2 + normal * 0.01 * unit, tip]), _HAIR_WIDTH * unit))
    painter.fill(hairs, blend(character.brow, character.hair[1], 0.5), 0.55)


_HAIR_WIDTH = np.array([0.016, 0.014, 0.002])
