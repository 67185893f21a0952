"""A small antialiased vector painter over Pillow: smooth curves, filled shapes, soft shapes, tapered strokes, clips.

Pillow fills polygons without antialiasing, so a shape is filled in a mask a few times larger than its bounding box and
reduced. Masks are no larger than the shape they hold, which is what makes a face of a hundred shapes cheap.

Shapes: a point is (x, y) in pixels, y down; a polygon is (n, 2) float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Points = NDArray[np.float64]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

WHITE: Colour = (255, 255, 255)


@lru_cache(maxsize=256)
def _spline_basis(count: int, per_segment: int, closed: bool) -> Points:
    """Matrix (samples, count) that turns control points into points of their Catmull-Rom curve."""
    segments = count if closed else count - 1
    rows = np.zeros((segments * per_segment + (0 if closed else 1), count))
    for row in range(rows.shape[0]):
        segment, step = divmod(row, per_segment)
        t = step / per_segment
        weights = (
            0.5 * (-t + 2 * t**2 - t**3),
            0.5 * (2 - 5 * t**2 + 3 * t**3),
            0.5 * (t + 4 * t**2 - 3 * t**3),
            0.5 * (-(t**2) + t**3),
        )
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            index = segment + offset
            rows[row, index % count if closed else min(max(index, 0), count - 1)] += weight
    rows.setflags(write=False)
    return rows


def smooth(points: Points, per_segment: int = 8, *, closed: bool = False) -> Points:
    """The Catmull-Rom curve through control points (n, k): (samples, k)."""
    return _spline_basis(len(points), per_segment, closed) @ points


def ribbon(line: Points, width: Points | float) -> Points:
    """The polygon of a stroke along `line` (n, 2) whose full width is a number or varies by point (n,)."""
    step = np.empty_like(line)
    step[1:-1] = line[2:] - line[:-2]
    step[0], step[-1] = line[1] - line[0], line[-1] - line[-2]
    reach = 0.5 * width / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)
    count = len(line)
    polygon = np.empty((2 * count, 2))
    across = polygon[count:]
    across[:, 0], across[:, 1] = -step[:, 1] * reach, step[:, 0] * reach
    polygon[:count] = line + across
    polygon[count:] = (line - across)[::-1]
    return polygon


def taper(count: int, start: float, middle: float, end: float) -> Points:
    """Widths (count,) along a stroke: `start`, through `middle` at half its length, to `end`."""
    t = np.linspace(0.0, 1.0, count)
    control = 2 * middle - (start + end) / 2
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def resample(line: Points, count: int) -> Points:
    """The polyline (n, 2) at `count` points evenly spaced along it."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, along[-1], count)
    return np.stack([np.interp(at, along, line[:, 0]), np.interp(at, along, line[:, 1])], axis=1)


def ellipse(centre: tuple[float, float], radius_x: float, radius_y: float, angle: float = 0.0) -> Points:
    """A polygon; `angle` in radians, clockwise on screen."""
    t = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    x, y = radius_x * np.cos(t), radius_y * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + x * c - y * s, centre[1] + x * s + y * c], axis=1)


@dataclass(frozen=True)
class Mask:
    """Coverage of a shape (mode L) and where its top left corner lies on the canvas."""

    image: Image.Image
    x: int
    y: int

    @property
    def box(self) -> Box:
        return (self.x, self.y, self.x + self.image.width, self.y + self.image.height)

    def crop(self, box: Box) -> Image.Image:
        """Coverage over a canvas box; zero outside the shape."""
        return self.image.crop((box[0] - self.x, box[1] - self.y, box[2] - self.x, box[3] - self.y))


@dataclass(frozen=True)
class Gradient:
    """Colours spread from canvas point `start` to canvas point `end`; stops are evenly spaced."""

    start: tuple[float, float]
    end: tuple[float, float]
    stops: tuple[Colour, ...]

    def over(self, box: Box) -> Image.Image:
        """The gradient over a canvas box."""
        x0, y0, x1, y1 = box
        dx, dy = self.end[0] - self.start[0], self.end[1] - self.start[1]
        square = max(dx * dx + dy * dy, 1e-9)
        # Computed at quarter size: a gradient has no edge to lose.
        xs = np.linspace(x0, x1, max(2, (x1 - x0) // 4), dtype=np.float32) - self.start[0]
        ys = np.linspace(y0, y1, max(2, (y1 - y0) // 4), dtype=np.float32) - self.start[1]
        t = np.clip((xs[None, :] * dx + ys[:, None] * dy) / square, 0.0, 1.0)
        table = gradient_table(self.stops)
        small = Image.fromarray(table[(t * 255).astype(np.uint8)])
        return small.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)


@lru_cache(maxsize=256)
def gradient_table(stops: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """256 colours (256, 3) through evenly spaced stops."""
    at = np.linspace(0, 255, len(stops))
    columns = [np.interp(np.arange(256), at, [stop[channel] for stop in stops]) for channel in range(3)]
    table: NDArray[np.uint8] = np.stack(columns, axis=1).round().astype(np.uint8)
    return table


Paint = Colour | Gradient


def blend(a: Colour, b: Colour, amount: float) -> Colour:
    """The colour `amount` (0..1) of the way from `a` to `b`."""
    mixed = [round(x + (y - x) * amount) for x, y in zip(a, b, strict=True)]
    return (mixed[0], mixed[1], mixed[2])


class Painter:
    """Paints shapes on an RGB image, in place."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.width, self.height = image.size

    def mask(
        self,
        shapes: Sequence[Points] | Points,
        *,
        holes: Sequence[Points] = (),
        opacity: float = 1.0,
        blur: float = 0.0,
        supersample: int = 4,
    ) -> Mask | None:
        """Coverage of the union of polygons less the holes, blurred by `blur` pixels; None if none is on the canvas."""
        polygons = [shapes] if isinstance(shapes, np.ndarray) else shapes
        points = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 2.5 * blur + 1
        # A blurred shape is drawn small and enlarged: there is no detail in it below the blur's radius.
        shrink = max(1, int(blur / 1.6))
        x0, y0 = max(0, int(low[0] - margin)), max(0, int(low[1] - margin))
        x1, y1 = min(self.width, int(high[0] + margin) + 2), min(self.height, int(high[1] + margin) + 2)
        if x1 <= x0 or y1 <= y0:
            return None
        columns, rows = -(-(x1 - x0) // shrink), -(-(y1 - y0) // shrink)
        factor = supersample if blur == 0 else 2
        zoom, level = factor / shrink, round(255 * opacity)
        large = Image.new("L", (columns * factor, rows * factor))
        draw = ImageDraw.Draw(large)
        for polygon in polygons:
            draw.polygon(((polygon - (x0, y0)) * zoom).ravel().tolist(), fill=level)
        for polygon in holes:
            draw.polygon(((polygon - (x0, y0)) * zoom).ravel().tolist(), fill=0)
        image = large.reduce(factor) if factor > 1 else large
        if blur > 0:
            image = image.filter(ImageFilter.GaussianBlur(blur / shrink))
            if shrink > 1:
                image = image.resize((columns * shrink, rows * shrink), Image.Resampling.BICUBIC)
                image = image.crop((0, 0, x1 - x0, y1 - y0))
        return Mask(image, x0, y0)

    def fill(
        self,
        shapes: Sequence[Points] | Points,
        paint: Paint,
        opacity: float = 1.0,
        *,
        blur: float = 0.0,
        clip: Mask | None = None,
        supersample: int = 4,
    ) -> None:
        """Paints the union of polygons, inside `clip` if there is one."""
        if opacity <= 0.004:
            return
        mask = self.mask(shapes, opacity=opacity, blur=blur, supersample=supersample)
        if mask is not None:
            self.pour(mask, paint, clip=clip)

    def pour(self, mask: Mask, paint: Paint | Image.Image, *, clip: Mask | None = None) -> None:
        """Paints a colour, a gradient or an image of the mask's size through a mask."""
        box, coverage = mask.box, mask.image
        if clip is not None:
            box = _overlap(box, clip.box)
            if box[2] <= box[0] or box[3] <= box[1]:
                return
            coverage = ImageChops.multiply(mask.crop(box), clip.crop(box))
        if isinstance(paint, Image.Image):
            offset = (box[0] - mask.x, box[1] - mask.y, box[2] - mask.x, box[3] - mask.y)
            self.image.paste(paint.crop(offset) if paint.size != coverage.size else paint, box, coverage)
        else:
            self.image.paste(paint.over(box) if isinstance(paint, Gradient) else paint, box, coverage)


def _overlap(a: Box, b: Box) -> Box:
    return (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
