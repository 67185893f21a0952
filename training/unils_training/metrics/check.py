"""Do the detectors find what a corpus says is there? A figure is worth as much as the detector behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unils_training.metrics.detect import detectors
from unils_training.metrics.events import NO_EVENTS, Counts, match_by_overlap, match_by_time, within
from unils_training.metrics.lips import CLOSURE_TOLERANCE_FRAMES
from unils_training.metrics.listening import LEAST_IOU
from unils_training.metrics.side import Side

# Where each kind is judged, and so where its detector has to be right.
JUDGED_IN = {"lip_closure": "speaking", "blink": "all"}
BY_TIME = ("lip_closure", "blink")


@dataclass
class DetectorCheck:
    """Detectors run on true motion against the corpus' labels; `add` a side, `+=` another process's counts."""

    counts: dict[str, Counts] = field(default_factory=dict)

    def add(self, side: Side) -> None:
        """Counts one clip, where it has labels."""
        for kind, detect in detectors(side.truth.rig).items():
            if not side.labels:
                continue
            mask = side.state(JUDGED_IN.get(kind, "listening"))
            labels = within(side.labels.get(kind, NO_EVENTS), mask)
            found = within(detect(side.truth), mask)
            if kind in BY_TIME:
                pairs = match_by_time(labels, found, CLOSURE_TOLERANCE_FRAMES)
            else:
                pairs = match_by_overlap(labels, found, LEAST_IOU)
            self.counts[kind] = self.counts.get(kind, Counts()) + Counts(len(pairs), len(labels), len(found))

    def __iadd__(self, other: DetectorCheck) -> DetectorCheck:
        for kind, counts in other.counts.items():
            self.counts[kind] = self.counts.get(kind, Counts()) + counts
        return self

    def result(self) -> dict[str, Any]:
        """Recall, precision and F1 by kind."""
        return {kind: counts.as_dict() for kind, counts in self.counts.items()}
