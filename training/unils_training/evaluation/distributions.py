"""How the values of a face are spread, truth beside prediction, as histograms that grow clip by clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unils_training.metrics.side import Side
from unils_training.rigs import group_channels

BINS = 60
STATES = ("speaking", "listening")
RANGES: dict[str, tuple[float, float]] = {
    "expression": (-4.0, 4.0),
    "head": (-0.6, 0.6),
    "flame gaze": (-0.6, 0.6),
}
"""Of the histogram of a group; 0 to 1, a blendshape's range, where it is not named. Outer bins hold what is beyond."""


def _range(side: Side, group: str) -> tuple[float, float]:
    is_flame = "jaw" in side.truth.channels
    return RANGES.get(f"flame {group}" if is_flame else group, RANGES.get(group, (0.0, 1.0)))


@dataclass
class Distributions:
    """Counts by state, group and kind (truth or prediction); `add` a side, `+=` another process's, read `result`."""

    counts: dict[str, dict[str, dict[str, NDArray[np.int64]]]] = field(default_factory=dict)
    edges: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, side: Side) -> None:
        """Counts one clip."""
        for group, columns in group_channels(side.truth.channels).items():
            edges = self.edges.setdefault(group, np.linspace(*_range(side, group), BINS + 1))
            for state in STATES:
                mask = side.state(state)
                for kind, motion in (("truth", side.truth), ("prediction", side.prediction)):
                    values = np.clip(motion.values[mask][:, columns], edges[0], edges[-1])
                    counts, _ = np.histogram(values, edges)
                    kinds = self.counts.setdefault(state, {}).setdefault(group, {})
                    kinds[kind] = kinds.get(kind, np.zeros(BINS, np.int64)) + counts

    def __iadd__(self, other: Distributions) -> Distributions:
        self.edges |= other.edges
        for state, groups in other.counts.items():
            for group, kinds in groups.items():
                mine = self.counts.setdefault(state, {}).setdefault(group, {})
                for kind, counts in kinds.items():
                    mine[kind] = mine.get(kind, np.zeros(BINS, np.int64)) + counts
        return self

    def result(self) -> dict[str, Any]:
        """Bin edges by group, and by state and group the shares of truth and prediction in each bin."""
        shares = {
            state: {
                group: {kind: (counts / max(int(counts.sum()), 1)).tolist() for kind, counts in kinds.items()}
                for group, kinds in groups.items()
            }
            for state, groups in self.counts.items()
        }
        return {"edges": {group: edges.tolist() for group, edges in self.edges.items()}, **shares}
