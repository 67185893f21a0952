"""How often a face blinks and nods, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unils_training.metrics.detect import detectors
from unils_training.metrics.events import within
from unils_training.metrics.side import FRAME_RATE, STATES, Side

KINDS = ("blink", "nod", "shake")
_ZERO = np.zeros(3)  # events, frames that they last, and the sum of squares of those


@dataclass
class EventRates:
    """Sums over clips; `add` a side, `+=` another process's sums, read `result`."""

    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    truth: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # kind -> state -> (3,)
    prediction: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def add(self, side: Side) -> None:
        """Counts one clip."""
        for state in STATES:
            self.frames[state] += int(side.state(state).sum())
        known = detectors(side.truth.rig)
        for sums, motion in ((self.truth, side.truth), (self.prediction, side.prediction)):
            for kind in (kind for kind in KINDS if kind in known):
                events = known[kind](motion)
                by_state = sums.setdefault(kind, {})
                for state in STATES:
                    mine = within(events, side.state(state))
                    length = (mine[:, 1] - mine[:, 0]).astype(np.float64)
                    row = np.array([len(mine), length.sum(), (length**2).sum()])
                    by_state[state] = by_state.get(state, _ZERO) + row

    def __iadd__(self, other: EventRates) -> EventRates:
        for state in STATES:
            self.frames[state] += other.frames[state]
        for sums, more in ((self.truth, other.truth), (self.prediction, other.prediction)):
            for kind, by_state in more.items():
                mine = sums.setdefault(kind, {})
                for state, row in by_state.items():
                    mine[state] = mine.get(state, _ZERO) + row
        return self

    def result(self) -> dict[str, Any]:
        """By kind: events `per_minute` by state, mean and std of their length in `seconds`, and those of truth."""
        selections = {**{state: (state,) for state in STATES}, "all": STATES}

        def figures(by_state: dict[str, np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
            rates = {}
            for name, states in selections.items():
                frames = sum(self.frames[state] for state in states)
                count = float(sum(by_state[state][0] for state in states))
                rates[name] = count * 60.0 * FRAME_RATE / frames if frames else float("nan")
            count, total, squares = sum(by_state.values(), _ZERO)
            mean = total / count if count else float("nan")
            spread = np.sqrt(max(squares - count * mean**2, 0.0) / (count - 1.0)) if count > 1 else float("nan")
            return rates, {"mean": float(mean) / FRAME_RATE, "std": float(spread) / FRAME_RATE}

        result = {}
        for kind in self.truth:
            rates, length = figures(self.prediction[kind])
            rates_truth, length_truth = figures(self.truth[kind])
            result[kind] = {
                "per_minute": rates,
                "per_minute_truth": rates_truth,
                "seconds": length,
                "seconds_truth": length_truth,
            }
        return result
