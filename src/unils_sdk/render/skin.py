"""Soft shading of the face: a smooth solid with bumps for its features, lit from the upper left, at half resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unils_sdk.render.anatomy import Head
from unils_sdk.render.vector import Box, Points, gradient_table

Array = NDArray[np.float32]

_LIGHT = np.array([-0.42, 0.50, 0.76]) / np.linalg.norm([-0.42, 0.50, 0.76])
_HALFWAY = (_LIGHT + np.array([0.0, 0.0, 1.0])) / np.linalg.norm(_LIGHT + np.array([0.0, 0.0, 1.0]))


def shade(head: Head, outline: Points, box: Box) -> Image.Image:
    """The lit skin over a canvas box; `outline` is the edge of the face as `Head.face_outline` gives it."""
    x0, y0, x1, y1 = box
    step = 2 if head.size >= 320 else 1
    columns, rows = -(-(x1 - x0) // step), -(-(y1 - y0) // step)
    xs = (x0 + step * (np.arange(columns) + 0.5)).astype(np.float32)
    ys = (y0 + step * (np.arange(rows) + 0.5)).astype(np.float32)
    nx, ny = _smooth_solid(head, outline, xs, ys)
    _add_bumps(head, xs, ys, nx, ny)

    square = nx * nx + ny * ny
    nz = np.sqrt(np.maximum(np.float32(1) - np.minimum(square, np.float32(0.92)), np.float32(0.08)))
    length = np.float32(1) / np.sqrt(square + nz * nz)
    lx, ly, lz = (np.float32(value) for value in _LIGHT)
    hx, hy, hz = (np.float32(value) for value in _HALFWAY)
    # Soft light from the viewer's left, a weak one from the right, and the gloss of skin.
    tone = np.float32(0.16) + np.float32(0.80) * (nx * lx + ny * ly + nz * lz) * length
    tone += np.maximum(np.float32(0.105) * nx - np.float32(0.014) * ny, 0)
    colours = gradient_table(head.character.skin)[(np.clip(tone, 0, 1) * 255).astype(np.uint8)]
    gloss = np.float32(11) * np.maximum((nx * hx + ny * hy + nz * hz) * length, 0) ** 64
    lit = np.minimum(colours + gloss[:, :, None], 255).astype(np.uint8)
    image = Image.fromarray(lit)
    if step > 1:
        image = image.resize((columns * step, rows * step), Image.Resampling.BICUBIC).crop((0, 0, x1 - x0, y1 - y0))
    return image


def _smooth_solid(head: Head, outline: Points, xs: Array, ys: Array) -> tuple[Array, Array]:
    """Normals (rows, columns), x right and y up, that turn from one edge of the face to the other."""
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    cosine, sine = np.cos(head.roll), np.sin(head.roll)
    # Rows are those of the upright head: u across it, v down it.
    edge = outline - middle
    edge_u, edge_v = edge[:, 0] * cosine + edge[:, 1] * sine, -edge[:, 0] * sine + edge[:, 1] * cosine
    half = len(edge) // 2
    grid = np.linspace(edge_v.min(), edge_v.max(), 512)
    bounds = []
    for side in (slice(0, half), slice(half, None)):
        order = np.argsort(edge_v[side])
        bounds.append(np.interp(grid, edge_v[side][order], edge_u[side][order]))
    centres = ((bounds[0] + bounds[1]) / 2).astype(np.float32)
    # The crown is broader than the tip of the outline, beyond which the skull shows when the head tips back.
    reaches = np.maximum((bounds[1] - bounds[0]) / 2, 0.6 * head.unit).astype(np.float32)

    c, s = np.float32(cosine), np.float32(sine)
    dx, dy = (xs - np.float32(middle[0]))[None, :], (ys - np.float32(middle[1]))[:, None]
    u, v = dx * c + dy * s, dy * c - dx * s
    height = np.float32(max(grid[-1] - grid[0], 1e-6))
    row = np.clip((v - np.float32(grid[0])) * (np.float32(511) / height), 0, 511).astype(np.intp)
    across = np.clip((u - centres[row]) / reaches[row], -1, 1)
    down = np.clip(v * (np.float32(2) / height), -1, 1)
    # A face is flatter in front than a ball and turns away faster at its edges.
    turn = np.float32(0.30) * across + np.float32(0.62) * across * np.abs(across) ** np.float32(1.5)
    tilt = -np.float32(0.20) * down - np.float32(0.45) * down * np.abs(down)
    return turn * c + tilt * s, tilt * c - turn * s


def _add_bumps(head: Head, xs: Array, ys: Array, nx: Array, ny: Array) -> None:
    """Tilts the normals by the slopes of the face's rounded features, in place."""
    bumps = _bumps(head)
    place, lift, spread, height = bumps[:, :2], bumps[:, 2], bumps[:, 3:5], bumps[:, 5]
    anchor = head.project(head.on_jaw(place, lift))
    facing = np.clip(head.facing(head.on_jaw(place)) * 2.5, 0.0, 1.0)
    # Steps along the skin, as the picture sees them: bumps foreshorten and move with the turning head.
    part = 0.25
    along_x = (head.project(head.on_jaw(place + spread * np.array([part, 0.0]), lift)) - anchor) / part
    along_y = (head.project(head.on_jaw(place + spread * np.array([0.0, part]), lift)) - anchor) / part
    for index in np.flatnonzero(np.abs(height * facing) > 1e-4):
        matrix = np.stack([along_x[index], along_y[index]], axis=1)
        if abs(np.linalg.det(matrix)) < 0.05 * head.unit**2 * spread[index].prod():
            continue  # seen edge on
        a, b, c, d = (np.float32(value) for value in np.linalg.inv(matrix).ravel())
        x, y = anchor[index]
        reach_x, reach_y = 3.3 * np.hypot(matrix[:, 0], matrix[:, 1])
        i0, i1 = np.searchsorted(xs, [x - reach_x, x + reach_x])
        j0, j1 = np.searchsorted(ys, [y - reach_y, y + reach_y])
        if i1 <= i0 or j1 <= j0:
            continue
        dx, dy = (xs[i0:i1] - np.float32(x))[None, :], (ys[j0:j1] - np.float32(y))[:, None]
        p, q = a * dx + b * dy, c * dx + d * dy
        bell = np.exp(np.float32(-0.5) * (p * p + q * q)) * np.float32(height[index] * facing[index] * head.unit)
        # Minus the slope of the height; the picture's y is down, the normal's is up.
        nx[j0:j1, i0:i1] += bell * (a * p + c * q)
        ny[j0:j1, i0:i1] -= bell * (b * p + d * q)


def _bumps(head: Head) -> Points:
    """Rows of x, y, lift off the skin, spread in x and in y, height: head units, at rest on the face."""
    m, wide = head.motion, head.character.nose
    chin = 0.075 + 0.05 * m["jawForward"] + 0.03 * m["mouthShrugLower"]
    bumps = [
        (0.0, 0.10, 0.05, 0.090, 0.170, 0.034),  # bridge of the nose
        (0.0, -0.08, 0.14, 0.090 * wide, 0.140, 0.055),
        (0.0, -0.275, 0.26, 0.115 * wide, 0.095, 0.115),  # tip
        (0.0, -0.52, 0.05, 0.045, 0.070, -0.016),  # philtrum
        (0.0, -0.925, 0.0, 0.220, 0.055, -0.030),  # under the lower lip
        (0.0, -1.12 + 0.05 * m["mouthShrugLower"], 0.0, 0.200, 0.120, chin),
        (0.0, 0.52, 0.0, 0.160, 0.100, -0.010 - 0.02 * m.both("browDown")),
    ]
    for side in (-1, 1):
        smile, squint = m.side("mouthSmile", side), m.side("cheekSquint", side)
        sneer, down = m.side("noseSneer", side), m.side("browDown", side)
        raised = max(0.6 * m["browInnerUp"], m.side("browOuterUp", side))
        cheek = 0.050 + 0.030 * smile + 0.030 * squint
        hollow = -0.05 * m["mouthPucker"] - 0.03 * m["jawOpen"]
        bumps += [
            (side * 0.145 * wide, -0.32 + 0.045 * sneer, 0.14, 0.070, 0.060, 0.045 + 0.02 * sneer),  # wing of the nose
            (side * 0.21, -0.02, 0.02, 0.080, 0.160, -0.018 - 0.020 * sneer),  # between nose and cheek
            (side * 0.42, 0.10, 0.0, 0.250, 0.150, -0.060),  # socket of the eye
            (side * 0.45, 0.42 + 0.07 * raised - 0.05 * down, 0.0, 0.260, 0.085, 0.035 + 0.02 * down),  # brow
            (side * 0.60, -0.34 + 0.09 * smile + 0.06 * squint, 0.0, 0.230, 0.170, cheek),
            (side * 0.66, -0.68, 0.0, 0.220, 0.240, 0.15 * m["cheekPuff"]),
            (side * 0.66, -0.76, 0.0, 0.180, 0.220, hollow),
        ]
    return np.array(bumps)
