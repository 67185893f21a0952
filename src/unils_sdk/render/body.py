"""What does not move with the face: background and clothes; and what joins the head to them: neck and ears."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from unils_sdk.render.anatomy import CENTRE, UNIT
from unils_sdk.render.characters import Character
from unils_sdk.render.scene import Scene
from unils_sdk.render.vector import WHITE, Gradient, Mask, Painter, Points, blend, ellipse, ribbon, smooth, taper


@lru_cache(maxsize=8)
def background(character: Character, size: int) -> Image.Image:
    """A soft backdrop with lights out of focus; shared, so copy it before drawing."""
    top, bottom = character.background
    image = Image.new("RGB", (size, size))
    wash = Gradient((0, 0), (0.25 * size, size), (top, blend(top, bottom, 0.6), bottom))
    image.paste(wash.over((0, 0, size, size)))
    painter = Painter(image)
    rng = np.random.default_rng(list(character.name.encode()))
    for _ in range(9):
        centre = (float(rng.uniform(0, size)), float(rng.uniform(0, 0.8 * size)))
        radius = float(rng.uniform(0.03, 0.12)) * size
        painter.fill(ellipse(centre, radius, radius), WHITE, float(rng.uniform(0.10, 0.22)), blur=0.012 * size)
    painter.fill(ellipse((0.42 * size, 0.34 * size), 0.36 * size, 0.36 * size), WHITE, 0.35, blur=0.14 * size)
    return image


def draw_neck_and_clothes(scene: Scene) -> None:
    """The neck under the head's shadow, and the shoulders."""
    painter, head, unit, character = scene.painter, scene.head, scene.unit, scene.character
    w = character.neck
    right = np.array([[-w, -0.55, -0.30], [-w, -1.10, -0.28], [-w * 1.02, -1.50, -0.25], [-w * 1.45, -2.30, -0.20]])
    follow = np.array([0.8, 0.45, 0.15, 0.0])
    right_edge = head.project(right, follow)
    left_edge = head.project(right * np.array([-1.0, 1.0, 1.0]), follow)
    deep, shade, middle, light = character.skin[:4]
    neck = painter.mask(np.concatenate([smooth(right_edge), smooth(left_edge[::-1])]), supersample=3)
    if neck is not None:
        round_ = (blend(middle, shade, 0.3), light, middle, shade, blend(shade, deep, 0.3))
        painter.pour(neck, Gradient((float(right_edge[1, 0]), 0), (float(left_edge[1, 0]), 0), round_))
        # The light comes from the upper left, so the head's shadow falls down and to the right.
        shadow = scene.outline + np.array([0.10, 0.20]) * unit
        painter.fill(shadow, blend(deep, shade, 0.35), 0.75, blur=0.07 * unit, clip=neck)
    clothes = _clothes(character, head.size)
    painter.image.paste(clothes, (0, 0), clothes)


def draw_ear(scene: Scene, side: int, opacity: float = 1.0) -> None:
    """One ear; `opacity` below 1 lets it pass from in front of the head to behind it."""
    painter, unit, character = scene.painter, scene.unit, scene.character
    shape = _EAR * np.array([side, 1.0, 1.0]) + np.array([side * 0.97, 0.02, -0.16])
    centre = shape.mean(axis=0)
    shell = centre + (shape - centre) * np.array([0.60, 0.66, 0.60]) + np.array([side * 0.005, 0.02, 0.02])
    rim = centre + (shape[:6] - centre) * 0.96
    outer = smooth(scene.head.project(shape), 6, closed=True)
    light = character.skin[3 if side < 0 else 2]
    low, high = float(outer[:, 1].min()), float(outer[:, 1].max())
    warm = Gradient((0, low), (0, high), (light, blend(light, character.blush, 0.25)))
    painter.fill(outer, warm, opacity)
    inner = smooth(scene.head.project(shell), 6, closed=True)
    painter.fill(inner, blend(character.skin[1], character.blush, 0.25), 0.55 * opacity, blur=0.025 * unit)
    line = smooth(scene.head.project(rim), 6)
    painter.fill(ribbon(line, 0.02 * unit), blend(character.skin[3], WHITE, 0.2), 0.30 * opacity, blur=0.008 * unit)


_EAR = np.array(
    [
        [0.00, 0.26, 0.00],
        [0.10, 0.34, -0.06],
        [0.19, 0.27, -0.12],
        [0.20, 0.08, -0.14],
        [0.13, -0.12, -0.10],
        [0.07, -0.28, -0.04],
        [0.00, -0.30, 0.00],
        [-0.05, 0.00, 0.00],
    ]
)


@lru_cache(maxsize=8)
def _clothes(character: Character, size: int) -> Image.Image:
    """Shoulders and collar, RGBA, the size of the picture."""
    unit, w = UNIT * size, character.neck
    centre = np.array([CENTRE[0] * size, CENTRE[1] * size])
    body, shade = character.clothes

    def at(*points: tuple[float, float]) -> Points:
        placed: Points = centre + np.array(points) * np.array([unit, -unit])
        return placed

    cloth, coverage = Image.new("RGB", (size, size), body), Image.new("RGB", (size, size))
    painter, cover = Painter(cloth), Painter(coverage)
    left = np.array([[w * 0.8, -1.86], [w * 1.35, -1.70], [1.75, -1.98], [2.45, -2.35], [2.6, -3.2]])
    half = [(float(x), float(y)) for x, y in left]
    mirrored = [(-x, y) for x, y in reversed(half)]
    cover.fill(smooth(at(*mirrored, (0.0, -1.98), *half), 10), WHITE)
    everything = Mask(Image.new("L", (size, size), 255), 0, 0)
    light = (blend(body, WHITE, 0.16), body, shade)
    painter.pour(everything, Gradient((0.2 * size, 0.8 * size), (0.9 * size, size), light))
    painter.fill(at((w * 0.2, -1.6), (w * 1.6, -1.7), (1.0, -2.9), (0.4, -2.9)), shade, 0.6, blur=0.1 * unit)
    for side in (-1, 1):
        sleeve = smooth(at((side * 1.55, -2.9), (side * 1.62, -2.5), (side * 1.75, -2.25)))
        width = taper(len(sleeve), 0.09 * unit, 0.06 * unit, 0.005 * unit)
        painter.fill(ribbon(sleeve, width), shade, 0.55, blur=0.03 * unit)

    if character.collar_style == "round":
        ring = smooth(at((-w * 1.38, -1.70), (-w * 0.9, -1.90), (0, -2.02), (w * 0.9, -1.90), (w * 1.38, -1.70)), 10)
        painter.fill(ribbon(ring + np.array([0, 0.10 * unit]), 0.05 * unit), shade, 0.7, blur=0.03 * unit)
        painter.fill(ribbon(ring, 0.15 * unit), character.collar)
        cover.fill(ribbon(ring, 0.15 * unit), WHITE)
        up = np.array([0, 0.05 * unit])
        painter.fill([ribbon(np.array([p - up, p + up]), 0.012 * unit) for p in ring[2:-2:2]], shade, 0.45)
        knit = [ribbon(at((k * 0.136, -2.05), (k * 0.187, -2.9)), 0.012 * unit) for k in range(-13, 14)]
        painter.fill(knit, shade, 0.28, blur=1.0)
    else:
        placket = at((-0.05, -2.0), (0.10, -2.0), (0.12, -2.95), (-0.07, -2.95))
        painter.fill(placket + np.array([0.02 * unit, 0]), shade, 0.6, blur=0.02 * unit)
        painter.fill(placket, blend(body, WHITE, 0.10))
        for y in (-2.22, -2.50):
            x, button_y = at((0.025, y))[0]
            painter.fill(ellipse((x, button_y), 0.03 * unit, 0.03 * unit), character.collar, 0.9)
        top, tip = float(at((0, -1.5))[0, 1]), float(at((0, -2.3))[0, 1])
        linen = Gradient((0, top), (0, tip), (blend(character.collar, shade, 0.25), character.collar))
        for side in (-1, 1):
            corners = ((w * 0.98, -1.52), (w * 1.42, -1.66), (0.62, -2.22), (0.34, -2.34), (0.05, -2.04))
            flap = at(*((side * x, y) for x, y in (*corners, (w * 0.55, -1.86))))
            painter.fill(flap + np.array([0.03, 0.07]) * unit, shade, 0.6, blur=0.04 * unit)
            painter.fill(flap, linen)
            cover.fill(flap, WHITE)
    cloth.putalpha(coverage.convert("L"))
    return cloth
