"""Hair: masses around the skull that turn with it, and the strands on them.

A mass is given by rows like the skull's (y, half width, z of the widest place, front z, back z).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unils_sdk.render.anatomy import smoothstep
from unils_sdk.render.body import draw_ear
from unils_sdk.render.scene import Scene
from unils_sdk.render.vector import Colour, Gradient, Mask, Points, blend, resample, ribbon, smooth, taper

_BLACK: Colour = (10, 4, 8)
_STRAND_POINTS = 30

_BOB_BACK = np.array(
    [
        [-1.60, 0.80, -0.35, 0.10, -0.75],
        [-1.53, 0.98, -0.35, 0.20, -0.95],
        [-1.35, 1.10, -0.34, 0.25, -1.10],
        [-0.90, 1.15, -0.32, 0.30, -1.20],
        [-0.30, 1.13, -0.28, 0.40, -1.28],
        [0.20, 1.10, -0.25, 0.50, -1.28],
        [0.80, 0.98, -0.22, 0.55, -1.15],
        [1.20, 0.72, -0.22, 0.40, -0.90],
        [1.40, 0.36, -0.22, 0.10, -0.50],
        [1.45, 0.05, -0.22, -0.10, -0.30],
    ]
)
_BOB = np.array(
    [
        [-1.44, 0.94, -0.05, 0.28, -0.90],
        [-1.34, 1.07, -0.05, 0.33, -1.05],
        [-0.95, 1.17, -0.08, 0.42, -1.22],
        [-0.40, 1.18, -0.12, 0.50, -1.32],
        [0.20, 1.16, -0.18, 0.66, -1.30],
        [0.72, 1.09, -0.20, 0.80, -1.26],
        [1.12, 0.88, -0.22, 0.62, -1.00],
        [1.38, 0.58, -0.22, 0.25, -0.70],
        [1.50, 0.28, -0.22, 0.05, -0.45],
        [1.525, 0.03, -0.22, -0.10, -0.30],
    ]
)
# Where the bob ends on the face: from the parting, on her left, down either side.
_PARTING = [0.26, 1.06, 0.60]
_BOB_EDGES = {
    -1: np.array(
        [
            _PARTING,
            [0.02, 0.95, 0.76],
            [-0.34, 0.80, 0.78],
            [-0.68, 0.56, 0.60],
            [-0.89, 0.25, 0.36],
            [-0.94, -0.20, 0.22],
            [-0.92, -0.65, 0.20],
            [-0.86, -1.00, 0.22],
            [-0.76, -1.38, 0.26],
        ]
    ),
    1: np.array(
        [
            _PARTING,
            [0.42, 0.99, 0.68],
            [0.64, 0.82, 0.62],
            [0.82, 0.56, 0.46],
            [0.91, 0.25, 0.30],
            [0.95, -0.20, 0.20],
            [0.93, -0.65, 0.20],
            [0.86, -1.00, 0.22],
            [0.76, -1.38, 0.26],
        ]
    ),
}
_SHORT = np.array(
    [
        [-0.46, 0.80, -0.36, -0.15, -0.80],
        [-0.38, 0.90, -0.32, -0.10, -0.90],
        [-0.15, 0.99, -0.22, 0.00, -1.00],
        [0.15, 1.025, -0.20, 0.30, -1.10],
        [0.50, 1.045, -0.18, 0.80, -1.14],
        [0.80, 1.02, -0.18, 0.86, -1.12],
        [1.08, 0.88, -0.18, 0.72, -0.98],
        [1.28, 0.62, -0.18, 0.45, -0.75],
        [1.40, 0.30, -0.18, 0.15, -0.50],
        [1.43, 0.04, -0.18, 0.00, -0.30],
    ]
)
# Half of the hairline, from the ear to the middle of the forehead, and the way round behind the ear to the nape.
_HAIRLINE = np.array(
    [
        [0.955, -0.16, 0.04],
        [0.955, 0.10, 0.12],
        [0.92, 0.36, 0.28],
        [0.86, 0.60, 0.40],
        [0.66, 0.80, 0.56],
        [0.32, 0.86, 0.70],
        [0.0, 0.88, 0.73],
    ]
)
_BEHIND_EAR = np.array(
    [[0.97, -0.18, -0.08], [0.97, 0.05, -0.16], [0.95, -0.15, -0.36], [0.90, -0.50, -0.44], [0.70, -1.60, -0.44]]
)
# The top is swept from a parting on his right over to his left: its edge on the forehead, and its crest.
_SWEEP_LOWER = np.array(
    [[-0.80, 0.72], [-0.66, 0.88], [-0.40, 0.97], [-0.05, 0.95], [0.32, 0.88], [0.62, 0.78], [0.84, 0.62], [0.93, 0.44]]
)
_SWEEP_UPPER = np.array(
    [
        [-0.90, 0.80, 0.30],
        [-0.93, 1.10, 0.30],
        [-0.74, 1.40, 0.42],
        [-0.36, 1.58, 0.50],
        [0.10, 1.63, 0.52],
        [0.54, 1.51, 0.46],
        [0.88, 1.22, 0.34],
        [1.03, 0.84, 0.24],
        [1.02, 0.52, 0.22],
    ]
)

# Passes of strands: how far apart from the other passes, which of the hair's colours, opacity, width.
_BOB_STRANDS = ((0.35, 0, 0.42, 0.034), (0.85, 2, 0.34, 0.026), (0.60, 0, 0.30, 0.016))
_SWEEP_STRANDS = ((0.20, 0, 0.55, 0.034), (0.70, 2, 0.50, 0.026), (0.45, 0, 0.40, 0.018))


def draw_back_hair(scene: Scene) -> None:
    """What lies behind the head, and under hair that lifts off the skull."""
    painter, character = scene.painter, scene.character
    dark, middle, _ = character.hair
    tables = (_BOB_BACK, _BOB) if character.hair_style == "bob" else (_SHORT,)
    masses = [np.concatenate([left, right[::-1]]) for left, right in (_edges(scene, table) for table in tables)]
    if character.hair_style != "bob":
        # The sweep stands off the skull: what shows between them when the head tips back is hair too.
        hairline = np.concatenate([_HAIRLINE * np.array([-1.0, 1.0, 1.0]), _HAIRLINE[::-1]])
        masses.append(scene.head.project(np.concatenate([hairline, _SWEEP_UPPER[::-1]])))
    high, low = float(masses[0][:, 1].min()), float(masses[0][:, 1].max())
    colours = Gradient((0, high), (0, low), (middle, dark, blend(dark, _BLACK, 0.4)))
    painter.fill([*masses, scene.head.cranium(0.05)], colours, supersample=3)


def draw_front_hair(scene: Scene) -> None:
    """What frames the face and lies over it, with its shadow."""
    if scene.character.hair_style == "bob":
        _draw_bob(scene)
    else:
        _draw_short_hair(scene)


def _follow(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of the head's turn reaches hair at height y: long hair hangs, its tips stay behind."""
    return np.clip(1.0 + (y + 0.4) * 0.45, 0.35, 1.0)


def _edges(scene: Scene, table: Points) -> tuple[Points, Points]:
    """The edges of a mass on the picture's left and right, bottom to top."""
    rows, head = smooth(table, 6), scene.head
    follow = _follow(rows[:, 0])
    return head.project(head.outline(rows, -1), follow), head.project(head.outline(rows, 1), follow)


def _on_face(scene: Scene, points: Points, side: int) -> Points:
    """Where hair ends on the face; what has turned away from the viewer lies outside the edge of the face instead."""
    head = scene.head
    placed = head.project(points, _follow(points[:, 1]))
    half = len(scene.outline) // 2
    edge = scene.outline[:half][::-1] if side < 0 else scene.outline[half:]
    limit = np.interp(placed[:, 1], edge[:, 1], edge[:, 0])
    outside = np.maximum(placed[:, 0], limit) if side > 0 else np.minimum(placed[:, 0], limit)
    placed[:, 0] = np.where(head.facing(points) < 0.0, outside, placed[:, 0])
    return placed


def _draw_bob(scene: Scene) -> None:
    painter, unit, character = scene.painter, scene.unit, scene.character
    dark, middle, light = character.hair
    left, right = _edges(scene, _BOB)
    right_path, left_path = (_on_face(scene, smooth(_BOB_EDGES[side], 6), side) for side in (-1, 1))
    below = np.array([0.0, 2 * unit])
    opening = np.concatenate([right_path, right_path[-1:] + below, left_path[-1:] + below, left_path[::-1]])
    outer = np.concatenate([left, right[::-1]])
    offset = np.array([0.03, 0.06]) * unit
    shadow = painter.mask(outer + offset, holes=[opening + offset], opacity=0.55, blur=0.035 * unit)
    _cast(scene, shadow)
    mass = painter.mask(outer, holes=[opening], supersample=4)
    if mass is None:
        return
    high, low = float(outer[:, 1].min()), float(outer[:, 1].max())
    painter.pour(mass, Gradient((0, high), (0.1 * unit, low), (middle, blend(middle, light, 0.35), middle, dark, dark)))

    crown = scene.head.project(np.array([[0.26, 1.50, 0.0]]))
    t = np.linspace(0, 1, _STRAND_POINTS)
    sides = [
        (resample(path, _STRAND_POINTS), resample(np.concatenate([crown, edge[::-1][6:]]), _STRAND_POINTS))
        for path, edge in ((right_path, left), (left_path, right))
    ]
    # The band of light that smooth hair carries round the crown.
    for inside, outside in sides:
        band = inside[4:13] + (outside[4:13] - inside[4:13]) * 0.5
        width = 0.85 * float(np.hypot(*(outside[8] - inside[8])))
        painter.fill(ribbon(band, taper(9, 0.0, width, 0.0)), light, 0.55, blur=0.07 * unit, clip=mass)
    for phase, shade, opacity, width in _BOB_STRANDS:
        strands = []
        for inside, outside in sides:
            for k in range(7):
                amount = (k + phase) / 7.6
                line = inside + (outside - inside) * (amount * np.minimum(1.0, 0.45 + 1.4 * t))[:, None]
                line[:, 0] += 0.02 * unit * np.sin(7 * t + 9 * amount) * t
                strands.append(ribbon(line, taper(len(t), 0.004 * unit, width * unit, 0.004 * unit)))
        painter.fill(strands, character.hair[shade], opacity, clip=mass, supersample=3)


def _draw_short_hair(scene: Scene) -> None:
    painter, unit, head, character = scene.painter, scene.unit, scene.head, scene.character
    dark, middle, light = character.hair
    left, right = _edges(scene, _SHORT)
    outer = np.concatenate([left, right[::-1]])
    mirror = np.array([-1.0, 1.0, 1.0])
    hairline, behind = smooth(_HAIRLINE, 6), _BEHIND_EAR
    opening = np.concatenate(
        [
            _on_face(scene, hairline * mirror, -1),
            _on_face(scene, hairline[::-1], 1),
            _on_face(scene, behind, 1),
            _on_face(scene, behind[::-1] * mirror, -1),
        ]
    )
    lower = resample(head.face_points(smooth(_SWEEP_LOWER, 7), 0.07), 40)
    upper = resample(head.project(smooth(_SWEEP_UPPER, 7)), 40)
    t = np.linspace(0, 1, 40)
    inwards = np.minimum(1.0, 6 * t * (1 - t))
    outwards = np.stack([np.gradient(upper[:, 1]), -np.gradient(upper[:, 0])], axis=1)
    outwards /= np.maximum(np.hypot(outwards[:, 0], outwards[:, 1]), 1e-6)[:, None]
    upper += outwards * (np.abs(np.sin(17 * t)) ** 0.7 * 0.035 * unit * inwards)[:, None]
    lower[:, 1] += np.abs(np.sin(11 * t)) ** 0.8 * 0.035 * unit * inwards
    top = np.concatenate([lower, upper[::-1]])

    _cast(scene, painter.mask(top + np.array([0.03, 0.06]) * unit, opacity=0.5, blur=0.03 * unit))
    sides = painter.mask(outer, holes=[opening], blur=0.008 * unit)
    if sides is not None:
        ear, crown = float(opening[0, 1]), float(outer[:, 1].min())
        fade = (middle, middle, dark, blend(dark, character.skin[1], 0.30))
        painter.pour(sides, Gradient((0, crown), (0, ear + 0.3 * unit), fade))
    mass = painter.mask(top)
    if mass is not None:
        high, low = float(upper[:, 1].min()), float(lower[:, 1].max())
        colours = (blend(middle, light, 0.75), middle, blend(middle, dark, 0.55), dark)
        painter.pour(mass, Gradient((0, high), (0.15 * unit, low), colours))
        glow = (lower + (upper - lower) * 0.62)[6:30]
        painter.fill(ribbon(glow, taper(24, 0.0, 0.36 * unit, 0.0)), light, 0.50, blur=0.07 * unit, clip=mass)
        for phase, shade, opacity, width in _SWEEP_STRANDS:
            strands = []
            for k in range(10):
                # Strands start along the parting and leave over the crest, each a little later than the one below.
                amount = np.clip((k + phase) / 10.2 + 0.10 * np.sin(3.1 * t + 2.0 * k), 0.01, 0.99)
                line = (lower + (upper - lower) * amount[:, None])[(5 * k) % 9 : 40 - (7 * k) % 8]
                strands.append(ribbon(line, taper(len(line), 0.002 * unit, width * unit, 0.002 * unit)))
            painter.fill(strands, character.hair[shade], opacity, clip=mass, supersample=3)
    for side in (-1, 1):
        draw_ear(scene, side, smoothstep(-side * head.yaw, -0.14, 0.05))


def _cast(scene: Scene, shadow: Mask | None) -> None:
    if shadow is not None and scene.skin is not None:
        skin = scene.character.skin
        scene.painter.pour(shadow, blend(skin[0], skin[1], 0.25), clip=scene.skin)
