"""Whether motion that was made a block of frames at a time shows where the blocks meet.

A seam is the step from the last frame of a block to the first of the next. Velocity is |x[t] - x[t-1]|, acceleration
|x[t+1] - 2 x[t] + x[t-1]|; a group's is the mean over its channels. An acceleration belongs to the seam that it spans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unils_training.metrics.accumulate import Mean
from unils_training.metrics.side import RIG_GROUPS, Side, rig_of

ORDERS = {"velocity": 1, "acceleration": 2}
SEAM_GROUPS = ("head", "jaw", "mouth", "expression")
"""Of each rig, those that it has."""


@dataclass
class GroupSeams:
    """Sums of one group's velocity or acceleration, in the rig's units a frame."""

    seam: Mean = field(default_factory=Mean)
    inside: Mean = field(default_factory=Mean)
    all: Mean = field(default_factory=Mean)
    truth: Mean = field(default_factory=Mean)

    def __iadd__(self, other: GroupSeams) -> GroupSeams:
        for name in ("seam", "inside", "all", "truth"):
            setattr(self, name, getattr(self, name).__iadd__(getattr(other, name)))
        return self

    def result(self) -> dict[str, float]:
        """Ratios; NaN where there is no seam, nothing between seams, or no motion."""
        return {"to_inside": _ratio(self.seam, self.inside), "to_truth": _ratio(self.all, self.truth)}


def _ratio(numerator: Mean, denominator: Mean) -> float:
    return numerator.value / denominator.value if denominator.value > 0.0 else float("nan")


@dataclass
class SeamMetrics:
    """Sums over clips whose blocks begin at multiples of `block_frames`; `add`, `+=`, `result` as everywhere.

    Without a block length there are no seams, and only the ratios to truth are measured.
    """

    block_frames: int = 0
    sums: dict[str, dict[str, GroupSeams]] = field(default_factory=dict)  # by order, by group

    def add(self, side: Side) -> None:
        """Counts one clip."""
        groups = RIG_GROUPS[rig_of(side.truth.channels)]
        for name, order in ORDERS.items():
            # Row i lies between frames i and i + order: it spans a seam where a block begins among the later ones.
            begins = np.arange(len(side) - order)[:, None] + np.arange(1, order + 1)
            seam = (begins % self.block_frames == 0).any(axis=1) if self.block_frames else np.zeros(len(begins), bool)
            for group in (group for group in SEAM_GROUPS if group in groups):
                prediction, truth = (
                    np.abs(np.diff(motion.columns(groups[group]), order, axis=0))
                    for motion in (side.prediction, side.truth)
                )
                sums = self.sums.setdefault(name, {}).setdefault(group, GroupSeams())
                sums.seam.add(prediction[seam])
                sums.inside.add(prediction[~seam])
                sums.all.add(prediction)
                sums.truth.add(truth)

    def __iadd__(self, other: SeamMetrics) -> SeamMetrics:
        for name, groups in other.sums.items():
            for group, sums in groups.items():
                mine = self.sums.setdefault(name, {}).setdefault(group, GroupSeams())
                mine += sums
        return self

    def result(self) -> dict[str, Any]:
        """By order and group: the mean at seams over that between them, and the mean of all over truth's."""
        return {
            "block_frames": self.block_frames,
            **{name: {g: sums.result() for g, sums in groups.items()} for name, groups in self.sums.items()},
        }
