"""Does the face live? Spread, blinks, stuck channels, jitter, and how near its frames are to true ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unils_training.metrics.accumulate import Moments, frechet_distance
from unils_training.metrics.events import Floats
from unils_training.metrics.rates import EventRates
from unils_training.metrics.side import FRAME_RATE, RIG_GROUPS, STATES, Side, rig_of

LEAST_FRAMES = 50  # of a state, for a clip's spread in it to count
MOVING = 0.01  # a true standard deviation under this, a hundredth of the full range, is not seen to move
STUCK = 0.1  # a predicted one under this share of it, as stuck
UPPER_FACE = {"arkit": ("brows", "gaze", "lids", "cheeks"), "flame": ()}  # an expression of FLAME is of no one place


JITTER_ORDERS = {"acceleration": 2, "jerk": 3}


def difference(values: Floats, order: int) -> Floats:
    """Absolute difference of this order per frame (T - order, D): 2 is acceleration, 3 jerk."""
    return np.abs(np.diff(values, n=order, axis=0))


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
    events: EventRates = field(default_factory=EventRates)
    jitter: dict[str, Floats | float] = field(default_factory=lambda: dict.fromkeys(JITTER_ORDERS, 0.0))  # sums (D,)
    jitter_truth: dict[str, Floats | float] = field(default_factory=lambda: dict.fromkeys(JITTER_ORDERS, 0.0))

    def add(self, side: Side) -> None:
        """Counts one clip."""
        self.channels = side.truth.channels
        self.events.add(side)
        for state in STATES:
            mask = side.state(state)
            self.spread[state].add(side, state)
            self.frames[state] += int(mask.sum())
        self.spread["all"].add(side, "all")
        for name, order in JITTER_ORDERS.items():
            self.jitter[name] = self.jitter[name] + difference(side.prediction.values, order).sum(axis=0)
            self.jitter_truth[name] = self.jitter_truth[name] + difference(side.truth.values, order).sum(axis=0)

    def __iadd__(self, other: AliveMetrics) -> AliveMetrics:
        self.channels = self.channels or other.channels
        for state, spread in other.spread.items():
            self.spread[state] += spread
        for state in STATES:
            self.frames[state] += other.frames[state]
        self.events += other.events
        for name in JITTER_ORDERS:
            self.jitter[name] = self.jitter[name] + other.jitter[name]
            self.jitter_truth[name] = self.jitter_truth[name] + other.jitter_truth[name]
        return self

    def _columns(self, *groups: str) -> list[int]:
        # No channel is known before the first clip.
        known = RIG_GROUPS[self.rig]
        return [self.channels.index(name) for group in groups for name in known[group] if name in self.channels]

    @property
    def rig(self) -> str:
        """The rig of the clips."""
        return rig_of(self.channels)

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

        def mean_of(*groups: str) -> float:
            columns = self._columns(*groups)
            return float(np.mean(np.asarray(spread.std_gap)[columns])) / spread.clips if columns else float("nan")

        groups = RIG_GROUPS[self.rig]
        pooled = (spread.pooled_prediction.std, spread.pooled_truth.std)
        return {
            "clips": spread.clips,
            "std_ratio": {g: ratio(spread.std_prediction, spread.std_truth, g) for g in groups},
            "std_ratio_pooled": {g: ratio(*pooled, g) for g in groups},
            "speed_ratio": {g: ratio(spread.speed_prediction, spread.speed_truth, g) for g in groups},
            "fdd": 100.0 * mean_of(*UPPER_FACE[self.rig]),
            "pdd": 100.0 * mean_of("head"),
            "jdd": 100.0 * mean_of("jaw"),
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

        def jitter(name: str) -> dict[str, float]:
            ratios = {}
            for group in (*RIG_GROUPS[self.rig], "total"):
                columns = self._columns(*(RIG_GROUPS[self.rig] if group == "total" else (group,)))
                size = float(np.sum(np.broadcast_to(self.jitter_truth[name], len(self.channels))[columns]))
                shaken = float(np.sum(np.broadcast_to(self.jitter[name], len(self.channels))[columns]))
                ratios[group] = shaken / size if size > 0.0 else float("nan")
            return ratios

        events = self.events.result()
        not_measured = dict.fromkeys((*STATES, "all"), float("nan"))
        return {
            "minutes": {state: frames / (60.0 * FRAME_RATE) for state, frames in self.frames.items()},
            **{state: self._state_result(state) for state in (*STATES, "all")},
            "blinks_per_minute": events["blink"]["per_minute"] if "blink" in events else not_measured,
            "blinks_per_minute_truth": events["blink"]["per_minute_truth"] if "blink" in events else not_measured,
            "events": events,
            "stuck_channels": [name for name, is_stuck in zip(self.channels, stuck, strict=True) if is_stuck],
            "jitter": jitter("acceleration"),
            "jerk": jitter("jerk"),
        }
