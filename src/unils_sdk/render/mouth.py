"""Lips, teeth and tongue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unils_sdk.render.anatomy import Head, Motion, smoothstep
from unils_sdk.render.characters import Character
from unils_sdk.render.scene import Scene
from unils_sdk.render.vector import WHITE, Colour, Gradient, Mask, Points, blend, ellipse, ribbon, taper

MOUTH_Y = -0.715  # of the mouth's line at rest, in head units
CAVITY: tuple[Colour, ...] = ((58, 14, 22), (84, 22, 32), (110, 36, 44))
_DEEP: Colour = (42, 9, 17)


@dataclass(frozen=True)
class MouthShape:
    """Lip lines (25, 2) in head units about the mouth's middle at rest, from the right corner to the left."""

    upper_out: Points
    upper_in: Points
    lower_in: Points
    lower_out: Points
    gap: NDArray[np.float64]  # (25,) between the inner lines; 0 where the lips touch
    drop: float  # how far the lower teeth have gone down
    jaw_shift: float  # and to the face's left
    protrusion: float


_S = np.linspace(-1, 1, 25)


def mouth_shape(character: Character, motion: Motion) -> MouthShape:
    """The lips of one frame."""
    s = _S
    t = np.clip((s + 0.6) / 1.2, 0, 1)
    left = t * t * (3 - 2 * t)

    def mix(name: str) -> NDArray[np.float64]:
        """A left/right pair, blended across the mouth."""
        return motion.side(name, -1) * (1 - left) + motion.side(name, 1) * left

    jaw, pucker, funnel, tongue = (motion[name] for name in ("jawOpen", "mouthPucker", "mouthFunnel", "tongueOut"))
    roll_upper, roll_lower = motion["mouthRollUpper"], motion["mouthRollLower"]
    shrug_upper, shrug_lower = motion["mouthShrugUpper"], motion["mouthShrugLower"]
    smile, frown, stretch, dimple = mix("mouthSmile"), mix("mouthFrown"), mix("mouthStretch"), mix("mouthDimple")
    press, up, down = mix("mouthPress"), mix("mouthUpperUp"), mix("mouthLowerDown")
    rounding = max(pucker, funnel)

    # ARKit's mouthClose brings the lips together at any opening of the jaw: fully when it matches jawOpen.
    close = motion["mouthClose"]
    seal = smoothstep(close / (jaw + 0.03), 0.30, 0.80)
    drop = 0.44 * jaw
    width = character.mouth + 0.085 * smile + 0.085 * stretch + 0.045 * dimple + 0.012 * press
    width = width - 0.16 * pucker - 0.12 * funnel - 0.10 * jaw * (1 - seal)
    x = width * s + 0.13 * (motion["mouthLeft"] - motion["mouthRight"])

    corner = 0.046 + 0.145 * smile - 0.125 * frown - 0.03 * stretch + 0.025 * dimple - 0.42 * drop
    middle = -0.012 * smile - 0.30 * drop * seal + 0.05 * shrug_lower + 0.03 * shrug_upper
    middle = middle + 0.012 * roll_lower - 0.01 * roll_upper
    line = middle * (1 - s**2) + corner * s**2 - 0.010 * np.exp(-((s / 0.22) ** 2)) * (1 - funnel)
    upper_in = line + (0.085 * up + 0.055 * funnel + 0.03 * drop) * (1 - seal) * (1 - s**2)
    parted = 0.44 * max(0.0, jaw - close)
    wanted = parted + (0.085 * up + 0.105 * down + 0.12 * funnel + 0.09 * tongue) * (1 - seal)
    held = 0.05 * press + 0.05 * shrug_lower + 0.04 * roll_lower + 0.03 * roll_upper
    # Lips are soft: until they have parted by their own give, they still touch.
    gap = np.maximum(wanted - held - 0.012, 0.0) * (1 - s**2) ** max(0.80 - 0.30 * rounding - 0.35 * jaw, 0.45)
    lower_in = upper_in - gap

    full = (1 - np.abs(s) ** (2.2 + 0.9 * rounding)) ** (0.75 - 0.2 * rounding)
    thin = full * (1 - 0.20 * smile) * (1 - 0.28 * stretch) * (1 - 0.32 * press) * (1 - 0.10 * jaw)
    bow = 1 - 0.24 * np.exp(-((s / 0.13) ** 2)) + 0.10 * np.exp(-(((np.abs(s) - 0.24) / 0.14) ** 2))
    upper = character.lip_upper * thin * bow * (1 - 0.72 * roll_upper) * (1 - 0.12 * up)
    upper = upper * (1 + 0.40 * pucker + 0.32 * funnel + 0.15 * shrug_upper)
    lower = character.lip_lower * thin * (1 - 0.72 * roll_lower) * (1 - 0.10 * down)
    lower = lower * (1 + 0.35 * pucker + 0.30 * funnel + 0.18 * shrug_lower)
    # A mouth closed over an open jaw is stretched as well as lowered.
    upper, lower = upper * (1 + 0.5 * drop * seal), lower * (1 + 1.1 * drop * seal)
    jaw_shift = 0.13 * (motion["jawLeft"] - motion["jawRight"])
    lower_x = x + jaw_shift * np.sqrt(1 - s**2)
    return MouthShape(
        upper_out=np.stack([x, upper_in + upper + 0.008], axis=1),
        upper_in=np.stack([x, upper_in], axis=1),
        lower_in=np.stack([lower_x, lower_in], axis=1),
        lower_out=np.stack([lower_x, lower_in - lower - 0.008], axis=1),
        gap=gap,
        drop=drop,
        jaw_shift=jaw_shift,
        protrusion=0.13 * pucker + 0.10 * funnel,
    )


def _place(head: Head, points: Points, lift: float | NDArray[np.float64]) -> Points:
    """Points (n, 2) about the mouth's middle on the picture."""
    # Depth is the skin's at rest height, so that a falling jaw does not slide the lip round the chin.
    resting = np.stack([points[:, 0], np.maximum(points[:, 1], -0.12) + MOUTH_Y], axis=1)
    placed = head.on_face(resting, lift)
    placed[:, 1] = points[:, 1] + MOUTH_Y
    return head.project(placed)


def draw_mouth(scene: Scene) -> None:
    """The mouth, from its inside out."""
    painter, character, motion, unit = scene.painter, scene.character, scene.motion, scene.unit
    shape = mouth_shape(character, motion)
    bulge = 0.055 * (1 - _S**2) + shape.protrusion * (1 - 0.6 * _S**2)
    forward = 0.05 * motion["jawForward"]
    upper_out = _place(scene.head, shape.upper_out, bulge)
    upper_in = _place(scene.head, shape.upper_in, bulge + 0.01)
    lower_in = _place(scene.head, shape.lower_in, bulge + 0.01 + forward)
    lower_out = _place(scene.head, shape.lower_out, bulge + forward)
    upper_colour, lower_colour, line_colour = character.lips
    skin = character.skin

    # A soft rim first, so that lips grow out of the skin instead of lying on it.
    rim = np.concatenate([upper_out, lower_out[::-1]])
    painter.fill(rim, blend(upper_colour, skin[2], 0.4), 0.55, blur=0.022 * unit)
    below = lower_out[6:-6] + np.array([0.0, 0.035 * unit])
    shadow = ribbon(below, taper(len(below), 0.01 * unit, 0.07 * unit, 0.01 * unit))
    painter.fill(shadow, blend(skin[0], skin[1], 0.5), 0.42, blur=0.028 * unit)

    aperture = None
    if shape.gap.max() > 0:
        aperture = painter.mask(np.concatenate([upper_in, lower_in[::-1]]), supersample=6)
    if aperture is not None:
        _draw_inside(scene, shape, aperture, upper_in, lower_in)

    top, middle, bottom = float(upper_out[:, 1].min()), float(upper_in[8:17, 1].mean()), float(lower_out[:, 1].max())
    colours = (blend(upper_colour, skin[2], 0.18), upper_colour, blend(upper_colour, line_colour, 0.35))
    painter.fill(np.concatenate([upper_out, upper_in[::-1]]), Gradient((0, top), (0, middle), colours), supersample=5)
    colours = (blend(lower_colour, line_colour, 0.30), lower_colour, blend(lower_colour, upper_colour, 0.6))
    lower_lip = np.concatenate([lower_in, lower_out[::-1]])
    inner = float(lower_in[8:17, 1].mean())
    painter.fill(lower_lip, Gradient((0, inner), (0, bottom), colours), supersample=5)

    gloss = (lower_in + (lower_out - lower_in) * 0.42)[7:-9]
    clip = painter.mask(lower_lip, supersample=3)
    painter.fill(ribbon(gloss, taper(len(gloss), 0.0, 0.036 * unit, 0.0)), WHITE, 0.42, blur=0.014 * unit, clip=clip)
    ridge = (upper_out + (upper_in - upper_out) * 0.2)[5:-6]
    painter.fill(ribbon(ridge, taper(len(ridge), 0.0, 0.016 * unit, 0.0)), WHITE, 0.20, blur=0.008 * unit)
    # Where lips meet there is a line, no darker than a lip's own shadow.
    painter.fill(ribbon(upper_in, 0.020 * unit), line_colour, 0.85, blur=0.004 * unit)
    for index, side in ((0, -1), (-1, 1)):
        x, y = (upper_in[index] + lower_in[index]) / 2
        corner = ellipse((x + side * 0.008 * unit, y), 0.030 * unit, 0.024 * unit)
        painter.fill(corner, blend(line_colour, skin[0], 0.5), 0.34, blur=0.014 * unit)
    if aperture is not None and motion["tongueOut"] > 0.02:
        _draw_tongue_out(scene, shape, upper_in)


def _draw_inside(scene: Scene, shape: MouthShape, aperture: Mask, upper_in: Points, lower_in: Points) -> None:
    painter, unit, head, motion = scene.painter, scene.unit, scene.head, scene.motion
    top, bottom = float(upper_in[:, 1].min()), float(lower_in[:, 1].max())
    painter.pour(aperture, Gradient((0, top), (0, bottom), CAVITY))

    # The tongue rests in the jaw.
    xs, shift = _S, shape.jaw_shift
    root = -shape.drop * 0.80 - 0.10
    rise = 0.10 + 0.03 * motion["tongueOut"]
    arch = np.stack([shift + 0.235 * xs, root + rise * (1 - xs**2) - 0.010 * np.exp(-((xs / 0.12) ** 2))], axis=1)
    floor = np.array([[shift + 0.26, root - 0.35], [shift - 0.26, root - 0.35]])
    tongue = np.concatenate([_place(head, arch, -0.10), _place(head, floor, -0.10)])
    high = float(tongue[:25, 1].min())
    flesh = Gradient((0, high), (0, high + 0.25 * unit), ((214, 104, 108), (188, 76, 84), (130, 46, 56)))
    painter.fill(tongue, flesh, clip=aperture, blur=0.008 * unit)

    # The lower teeth belong to the jaw, the upper ones to the skull; rounded lips cover both.
    rounding = max(motion["mouthPucker"], motion["mouthFunnel"])
    lower = (-shape.drop - 0.008 - 0.07 * rounding, -0.16, 0.26, -0.035, shift, ((232, 222, 214), (206, 190, 184)))
    white = ((206, 190, 184), (240, 234, 226), (252, 250, 244))
    upper = (-0.070 + 0.07 * rounding, 0.20, 0.345, 0.060, 0.0, white)
    for edge, length, half_width, curve, offset, shades in (lower, upper):
        line = np.stack([offset + half_width * xs, edge + curve * np.abs(xs) ** 2.4], axis=1)
        gums = np.stack([offset + half_width * xs, np.full(25, edge + length)], axis=1)
        band = np.concatenate([_place(head, line, -0.06), _place(head, gums, -0.06)[::-1]])
        y0, y1 = float(band[:, 1].min()), float(band[:, 1].max())
        painter.fill(band, Gradient((0, y0), (0, y1), shades), clip=aperture)
        if shape.gap.max() > 0.05:
            seams = []
            for k in range(-4, 5):
                x = offset + half_width * 0.215 * k
                ends = np.array([[x, edge], [x, edge + np.copysign(0.07, length)]])
                seams.append(ribbon(_place(head, ends, -0.06), 0.006 * unit))
            painter.fill(seams, (176, 150, 146), 0.40, clip=aperture)

    for index in (0, -1):
        x, y = (upper_in[index] + lower_in[index]) / 2
        corner = ellipse((x, y), 0.13 * unit, 0.16 * unit)
        painter.fill(corner, _DEEP, 0.62, blur=0.045 * unit, clip=aperture)
    under_lip = ribbon(upper_in + np.array([0.0, 0.012 * unit]), 0.055 * unit)
    painter.fill(under_lip, _DEEP, 0.50, blur=0.018 * unit, clip=aperture)


def _draw_tongue_out(scene: Scene, shape: MouthShape, upper_in: Points) -> None:
    """The tip of the tongue: between the teeth at small values, over the lower lip at large ones."""
    painter, unit, head = scene.painter, scene.unit, scene.head
    out = scene.motion["tongueOut"]
    xs, shift = _S, shape.jaw_shift
    lip = float(shape.lower_in[:, 1].min())
    thickness = float(shape.lower_in[12, 1] - shape.lower_out[12, 1])
    tip = lip + 0.035 - (0.25 + thickness) * smoothstep(out, 0.15, 1.0)
    half_width = 0.20 - 0.02 * out
    lift = 0.02 + 0.12 * out
    x = shift + half_width * xs * (1 - 0.06 * (1 - xs**2))
    edge = np.stack([x, tip + (lip + 0.07 - tip) * np.abs(xs) ** 3.2], axis=1)
    root = np.stack([shift + half_width * xs, np.full(25, lip + 0.05 + 0.06 * out)], axis=1)
    body = np.concatenate([_place(head, edge, lift), _place(head, root, -0.02)[::-1]])
    clip = painter.mask(np.concatenate([upper_in, upper_in[::-1] + np.array([0.0, 2.0 * unit])]), supersample=3)
    y0, y1 = float(body[:, 1].min()), float(body[:, 1].max())
    painter.fill(body, Gradient((0, y0), (0, y1), ((168, 62, 72), (220, 110, 112), (236, 138, 134))), clip=clip)
    groove = _place(head, np.stack([np.full(25, shift), np.linspace(lip + 0.06, tip + 0.05, 25)], axis=1), lift)
    width = taper(25, 0.014 * unit, 0.016 * unit, 0.002 * unit)
    painter.fill(ribbon(groove, width), (160, 60, 70), 0.6, blur=0.008 * unit, clip=clip)
    shine = _place(head, np.stack([shift + np.linspace(-0.10, 0.02, 25), np.full(25, tip + 0.045)], axis=1), lift)
    wet = ribbon(shine, taper(25, 0.0, 0.024 * unit, 0.0))
    painter.fill(wet, WHITE, 0.40 * smoothstep(out, 0.2, 0.6), blur=0.010 * unit, clip=clip)
