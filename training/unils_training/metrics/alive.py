"""Does the face live? Spread, blinks, stuck channels, jitter, and how near its frames are to true ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unils_training.metrics.accumulate import Moments, frechet_distance
from unils_training.metrics.detect import blinks
from unils_training.metrics.events import Floats, within
from unils_training.metrics.side import FRAME_RATE, GROUPS, STATES, Side

LEAST_FRAMES = 50  # of a state, for a clip's spread in it to count
MOVING = 0.01  # a true standard deviation under this, a hundredth of the full range, is not seen to move
STUCK = 0.1  # a predicted one under this share of it, as stuck
UPPER_FACE = ("brows", "gaze", "lids", "cheeks")


def acceleration(values: Floats) -> Floats:
    """Absolute second difference per frame (T - 2, D)."""
    return np.abs(values[2:] - 2.0 * values[1:-1] + values[:-2])


@dataclass
class Spread:
    """Standard deviation and speed per channel in one state: within clips, and pooled over them."""

    clips: int = 0
    std_truth: Floats | float = 0.0  # sums over clips (D,)
    std_prediction: Floats | float = 0.0
    std_gap: Floats | float = 0.0
    speed_truth: Floats | float = 0.0
    speed_prediction: Floats | float = 0.0
    pooled_truth: Moments = field(default_factory=Moments)
    pooled_prediction: Moments = field(default_factory=Moments)
    pair_truth: Moments = field(default_factory=Moments)  # [partner, self]
    pair_prediction: Moments = field(default_factory=Moments)

    def add(self, side: Side, state: str) -> None:
        """Counts the frames of one clip that lie in `state`."""
        mask = side.state(state)
        truth, prediction = side.truth.values[mask], side.prediction.values[mask]
        self.pooled_truth += Moments.of(truth)
        self.pooled_prediction += Moments.of(prediction)
        if side.partner is not None:
            self.pair_truth += Moments.of(np.concatenate((side.partner.values[mask], truth), axis=1))
            self.pair_prediction += Moments.of(np.concatenate((side.partner.values[mask], prediction), axis=1))
        if len(truth) < LEAST_FRAMES:
            return
        self.clips += 1
        std_truth, std_prediction = truth.std(axis=0, ddof=1), prediction.std(axis=0, ddof=1)
        self.std_truth = self.std_truth + std_truth
        self.std_prediction = self.std_prediction + std_prediction
        self.std_gap = self.std_gap + np.abs(std_prediction - std_truth)
        both = mask[1:] & mask[:-1]
        for name, motion in (("speed_truth", side.truth), ("speed_prediction", side.prediction)):
            speed = np.abs(np.diff(motion.values, axis=0))[both]
            if len(speed):
                setattr(self, name, getattr(self, name) + speed.mean(axis=0) * FRAME_RATE)

    def __iadd__(self, other: Spread) -> Spread:
        self.clips += other.clips
        for name in ("std_truth", "std_prediction", "std_gap", "speed_truth", "speed_prediction"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("pooled_truth", "pooled_prediction", "pair_truth", "pair_prediction"):
            getattr(self, name).__iadd__(getattr(other, name))
        return self


def frechet(truth: Moments, prediction: Moments) -> float:
    """Frechet distance of frames in units of each channel's true standard deviation; still channels are left out."""
    if truth.count < 2 or prediction.count < 2:
        return float("nan")
    moving = truth.std > MOVING
    scale = truth.std[moving]

    def scaled(moments: Moments) -> Moments:
        comoment = moments.comoment[np.ix_(moving, moving)] / np.outer(scale, scale)
        return Moments(moments.count, moments.mean[moving] / scale, comoment)

    return frechet_distance(scaled(truth), scaled(prediction))


@dataclass
class AliveMetrics:
    """Sums over clips; `add` a side, `+=` another process's sums, read `result`."""

    channels: tuple[str, ...] = ()
    spread: dict[str, Spread] = field(default_factory=lambda: {name: Spread() for name in (*STATES, "all")})
    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    blinks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    blinks_truth: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    acceleration_frames: int = 0
    acceleration: Floats | float = 0.0  # sums over frames (D,)
    acceleration_truth: Floats | float = 0.0

    def add(self, side: Side) -> None:
        """Counts one clip."""
        self.channels = side.truth.channels
        blinks_truth, blinks_prediction = blinks(side.truth), blinks(side.prediction)
        for state in STATES:
            mask = side.state(state)
            self.spread[state].add(side, state)
            self.frames[state] += int(mask.sum())
            self.blinks[state] += len(within(blinks_prediction, mask))
            self.blinks_truth[state] += len(within(blinks_truth, mask))
        self.spread["all"].add(side, "all")
        if len(side) > 2:
            self.acceleration_frames += len(side) - 2
            self.acceleration = self.acceleration + acceleration(side.prediction.values).sum(axis=0)
            self.acceleration_truth = self.acceleration_truth + acceleration(side.truth.values).sum(axis=0)

    def __iadd__(self, other: AliveMetrics) -> AliveMetrics:
        self.channels = self.channels or other.channels
        for state, spread in other.spread.items():
            self.spread[state] += spread
        for state in STATES:
            self.frames[state] += other.frames[state]
            self.blinks[state] += other.blinks[state]
            self.blinks_truth[state] += other.blinks_truth[state]
        self.acceleration_frames += other.acceleration_frames
        self.acceleration = self.acceleration + other.acceleration
        self.acceleration_truth = self.acceleration_truth + other.acceleration_truth
        return self

    def _columns(self, *groups: str) -> list[int]:
        # No channel is known before the first clip.
        return [self.channels.index(name) for group in groups for name in GROUPS[group] if name in self.channels]

    def _state_result(self, state: str) -> dict[str, Any]:
        spread = self.spread[state]
        if spread.clips == 0:
            return {"clips": 0}

        def ratio(prediction: Floats | float, truth: Floats | float, group: str) -> float:
            columns = self._columns(group)
            size = np.sqrt(np.sum(np.square(np.asarray(truth)[columns])))
            return (
                float(np.sqrt(np.sum(np.square(np.asarray(prediction)[columns]))) / size) if size > 0 else float("nan")
            )

        gap = np.asarray(spread.std_gap) / spread.clips
        pooled = (spread.pooled_prediction.std, spread.pooled_truth.std)
        return {
            "clips": spread.clips,
            "std_ratio": {g: ratio(spread.std_prediction, spread.std_truth, g) for g in GROUPS},
            "std_ratio_pooled": {g: ratio(*pooled, g) for g in GROUPS},
            "speed_ratio": {g: ratio(spread.speed_prediction, spread.speed_truth, g) for g in GROUPS},
            "fdd": 100.0 * float(np.mean(gap[self._columns(*UPPER_FACE)])),
            "pdd": 100.0 * float(np.mean(gap[self._columns("head")])),
            "jdd": 100.0 * float(np.mean(gap[self._columns("jaw")])),
            "frechet": frechet(spread.pooled_truth, spread.pooled_prediction),
            "paired_frechet": frechet(spread.pair_truth, spread.pair_prediction),
        }

    def result(self) -> dict[str, Any]:
        """The figures, named as in docs/metrics.md."""
        whole = self.spread["all"]
        clips = max(whole.clips, 1)
        truth = np.broadcast_to(np.asarray(whole.std_truth) / clips, len(self.channels))
        prediction = np.broadcast_to(np.asarray(whole.std_prediction) / clips, len(self.channels))
        stuck = (truth > MOVING) & (prediction < STUCK * truth)
        jitter: dict[str, float] = {}
        for group in (*GROUPS, "total"):
            columns = self._columns(*(GROUPS if group == "total" else (group,)))
            size = float(np.sum(np.broadcast_to(self.acceleration_truth, len(self.channels))[columns]))
            shaken = float(np.sum(np.broadcast_to(self.acceleration, len(self.channels))[columns]))
            jitter[group] = shaken / size if size > 0.0 else float("nan")

        def per_minute(count: dict[str, int], states: tuple[str, ...]) -> float:
            frames = sum(self.frames[s] for s in states)
            return sum(count[s] for s in states) * 60.0 * FRAME_RATE / frames if frames else float("nan")

        selections = {**{state: (state,) for state in STATES}, "all": STATES}
        return {
            "minutes": {state: frames / (60.0 * FRAME_RATE) for state, frames in self.frames.items()},
            **{state: self._state_result(state) for state in (*STATES, "all")},
            "blinks_per_minute": {name: per_minute(self.blinks, s) for name, s in selections.items()},
            "blinks_per_minute_truth": {name: per_minute(self.blinks_truth, s) for name, s in selections.items()},
            "stuck_channels": [name for name, is_stuck in zip(self.channels, stuck, strict=True) if is_stuck],
            "jitter": jitter,
        }
