"""The head as a solid: its surface, its pose, and where points of it fall on the picture.

Head space: x to the face's own left (the viewer's right), y up, z towards the viewer; the unit is half a face width,
the origin lies between the eyes. Rows of the head are superposed half ellipses (a generalised cylinder), so the
outline at any yaw is known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unils_sdk.render.characters import Character
from unils_sdk.render.vector import Points, smooth

# y, half width, z of the widest place, front z, back z
_SKULL = np.array(
    [
        [-1.285, 0.06, 0.55, 0.70, 0.45],
        [-1.255, 0.22, 0.50, 0.80, 0.35],
        [-1.170, 0.41, 0.38, 0.86, 0.15],
        [-1.010, 0.59, 0.20, 0.85, -0.10],
        [-0.780, 0.765, 0.02, 0.90, -0.35],
        [-0.500, 0.895, -0.08, 0.91, -0.65],
        [-0.200, 0.965, -0.12, 0.88, -0.90],
        [0.100, 0.995, -0.15, 0.86, -1.08],
        [0.400, 1.000, -0.18, 0.94, -1.18],
        [0.680, 0.960, -0.20, 0.92, -1.18],
        [0.940, 0.850, -0.22, 0.76, -1.05],
        [1.180, 0.600, -0.24, 0.45, -0.75],
        [1.310, 0.300, -0.25, 0.05, -0.50],
        [1.340, 0.040, -0.25, -0.20, -0.30],
    ]
) * np.array([1.0, 1.0, 0.86, 0.86, 0.86])
_CRANIUM = np.array([0.0, 0.26, -0.13]), np.array([0.985, 1.07, 0.93])  # centre and radii of the skull's ellipsoid
_PIVOT = np.array([0.0, -0.75, -0.25])  # about where skull and spine meet
_CAMERA = 7.5
UNIT = 0.230  # of the picture's height
CENTRE = (0.5, 0.465)  # where the origin falls, of the picture's width and height


class Motion:
    """One frame by channel name: blendshapes clipped to 0..1, head angles in radians; a name not given is 0."""

    def __init__(self, values: NDArray[np.floating], channels: Sequence[str]) -> None:
        self._values: dict[str, float] = dict(zip(channels, map(float, values), strict=True))

    def __getitem__(self, name: str) -> float:
        return min(max(self._values.get(name, 0.0), 0.0), 1.0)

    def side(self, name: str, side: int) -> float:
        """The left (side 1) or right (side -1) shape of a pair."""
        return self[name + ("Left" if side > 0 else "Right")]

    def both(self, name: str) -> float:
        """The mean of a pair."""
        return 0.5 * (self[name + "Left"] + self[name + "Right"])

    def angle(self, name: str) -> float:
        """A head angle, kept within what a neck can do."""
        return min(max(self._values.get(name, 0.0), -1.2), 1.2)


def smoothstep(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, smooth between them."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=8)
def _skull_rows(jaw: float) -> Points:
    """The skull's table, dense, with the jaw's width applied: (rows, 5), bottom to top."""
    rows = smooth(_SKULL, 6)
    lower = np.clip((-0.25 - rows[:, 0]) / 0.8, 0.0, 1.0)
    rows[:, 1] *= 1 + (jaw - 1) * lower
    return rows


class Head:
    """One character's head in one pose."""

    def __init__(self, character: Character, motion: Motion, size: int) -> None:
        self.character, self.motion, self.size = character, motion, size
        self.unit = UNIT * size  # pixels per head unit
        self.centre = np.array([CENTRE[0] * size, CENTRE[1] * size])
        yaw, pitch, roll = (motion.angle(name) for name in ("headYaw", "headPitch", "headRoll"))
        self.yaw, self.pitch, self.roll = yaw, pitch, roll
        self.rotation = _rotation(yaw, pitch, roll)
        # The neck carries a little of every turn, which is what keeps a head from looking pinned to a wall.
        self.lean = np.array([0.10 * np.sin(yaw) + 0.12 * np.sin(roll), 0.03 * np.sin(pitch), 0.0])
        self.jaw_drop = 0.44 * motion["jawOpen"]
        self.jaw_shift = 0.13 * (motion["jawLeft"] - motion["jawRight"])
        self._rows, self._jaw_weight = self._deformed_rows()

    def _deformed_rows(self) -> tuple[Points, NDArray[np.float64]]:
        """The skull's rows with jaw and cheeks moved, and how much of the jaw is in each."""
        motion = self.motion
        rows = _skull_rows(self.character.jaw).copy()
        y = rows[:, 0].copy()
        jaw = _jaw_weight(y)
        rows[:, 0] -= (self.jaw_drop - 0.03 * motion["mouthShrugLower"]) * jaw
        rows[:, 1] *= 1 - 0.07 * motion["jawOpen"] * jaw
        rows[:, 1] += 0.095 * motion["cheekPuff"] * np.exp(-(((y + 0.62) / 0.36) ** 2))
        rows[:, 1] += 0.035 * motion.both("mouthSmile") * np.exp(-(((y + 0.52) / 0.25) ** 2))
        rows[:, 1] -= 0.03 * motion["mouthPucker"] * np.exp(-(((y + 0.72) / 0.25) ** 2))
        rows[:, 3] += 0.10 * motion["jawForward"] * jaw
        return rows, jaw

    def project(self, points: Points, follow: float | NDArray[np.float64] = 1.0) -> Points:
        """Head space (n, 3) to pixels (n, 2). `follow` below 1 is for what goes along only in part: hair tips, neck."""
        turned = (points - _PIVOT) @ self.rotation.T + _PIVOT + self.lean
        if not (isinstance(follow, float) and follow == 1.0):
            weight = np.broadcast_to(np.asarray(follow, dtype=np.float64), (len(points),))[:, None]
            turned = points + weight * (turned - points)
        scale = self.unit * _CAMERA / (_CAMERA - turned[:, 2])
        return np.stack([self.centre[0] + turned[:, 0] * scale, self.centre[1] - turned[:, 1] * scale], axis=1)

    def on_face(self, xy: Points, lift: float | NDArray[np.float64] = 0.0) -> Points:
        """Points (n, 2) of the front of the face with their depth: (n, 3); `lift` raises them off the skin."""
        x, y = xy[:, 0], xy[:, 1]
        rows = _skull_rows(self.character.jaw)  # depth is read at rest: features carry their own displacement
        width = np.interp(y, rows[:, 0], rows[:, 1])
        middle = np.interp(y, rows[:, 0], rows[:, 2])
        front = np.interp(y, rows[:, 0], rows[:, 3])
        z = middle + (front - middle) * np.sqrt(np.maximum(0.04, 1 - (x / np.maximum(width, 0.05)) ** 2))
        muzzle = 0.09 * np.exp(-((x / 0.45) ** 2) - ((y + 0.70) / 0.3) ** 2)
        return np.stack([x, y, z + muzzle + lift], axis=1)

    def on_jaw(self, xy: Points, lift: float | NDArray[np.float64] = 0.0) -> Points:
        """Like `on_face`, for skin that goes along with the lower jaw; `xy` is where it lies at rest."""
        points = self.on_face(xy, lift)
        weight = _jaw_weight(xy[:, 1])
        points[:, 0] += self.jaw_shift * weight
        points[:, 1] -= self.jaw_drop * weight
        return points

    def cranium(self, inflate: float = 0.0, count: int = 40) -> Points:
        """The outline of the skull on the picture (count, 2): an ellipsoid's, so exact at any yaw, pitch and roll."""
        centre, radii = _CRANIUM
        radii = radii + inflate
        towards = self.rotation[2] / radii
        first = np.cross(towards, [0.0, 1.0, 0.0])
        first /= np.linalg.norm(first)
        second = np.cross(towards, first)
        second /= np.linalg.norm(second)
        t = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
        return self.project(centre + radii * (np.cos(t) * first + np.sin(t) * second))

    def face_points(self, xy: Points, lift: float | NDArray[np.float64] = 0.0) -> Points:
        """Points (n, 2) of the face on the picture (n, 2)."""
        return self.project(self.on_face(xy, lift))

    def facing(self, points: Points) -> NDArray[np.float64]:
        """How far the skin at points (n, 3) faces the viewer: 1 straight on, 0 edge on, negative turned away."""
        rows = _skull_rows(self.character.jaw)
        y = points[:, 1]
        width = np.maximum(np.interp(y, rows[:, 0], rows[:, 1]), 0.05)
        middle = np.interp(y, rows[:, 0], rows[:, 2])
        offset = points[:, 2] - middle
        front, back = np.interp(y, rows[:, 0], rows[:, 3]), np.interp(y, rows[:, 0], rows[:, 4])
        depth = np.where(offset > 0, front - middle, middle - back)
        normal = np.stack([points[:, 0] / width**2, np.zeros_like(y), offset / np.maximum(depth, 0.05) ** 2], axis=1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1), 1e-9)[:, None]
        turned: NDArray[np.float64] = normal @ self.rotation[2]
        return turned

    def outline(self, rows: Points, side: int, inflate: float = 0.0) -> Points:
        """The edge of the generalised cylinder `rows` on the picture's left (-1) or right (1), bottom to top: (rows, 3)
        in head space. A row is (y, half width, z of the widest place, front z, back z)."""
        y, width, middle, front, back = rows.T
        width = width + inflate
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        towards_front = side * sine > 0
        depth = (front - middle if towards_front else middle - back) + inflate
        reach = np.maximum(np.hypot(width * cosine, depth * sine), 1e-6)
        x = side * width * (width * cosine) / reach
        z = middle + side * depth * (depth * sine) / reach
        return np.stack([x, y, z], axis=1)

    def face_outline(self) -> Points:
        """The edge of the face on the picture (n, 2): its right side upwards, then its left side downwards."""
        edges = []
        for side in (-1, 1):
            edge = self.outline(self._rows, side)
            edge[:, 0] += self.jaw_shift * self._jaw_weight
            edges.append(self.project(edge))
        return np.concatenate([edges[0], edges[1][::-1]])


def _jaw_weight(y: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip((-0.30 - y) / 0.75, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _rotation(yaw: float, pitch: float, roll: float) -> Points:
    """Yaw positive to the face's own left, pitch positive up, roll positive to its own left shoulder."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    product: Points = about_y @ about_x @ about_z
    return product
