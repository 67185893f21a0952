"""Does the mouth say what the voice says? Jaw, lip closures, and rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unils_training.metrics.accumulate import Mean, Moments, pearson
from unils_training.metrics.detect import detectors, lip_closures
from unils_training.metrics.events import NO_EVENTS, Counts, centres, match_by_time, within
from unils_training.metrics.side import Side

CLOSURE_TOLERANCE_FRAMES = 3.0
LEAST_SPEECH_FRAMES = 50


@dataclass
class LipMetrics:
    """Sums over clips; `add` a side, `+=` another process's sums, read `result`."""

    jaw: Moments = field(default_factory=Moments)  # columns: prediction, truth
    jaw_by_clip: Mean = field(default_factory=Mean)
    closures: Counts = field(default_factory=Counts)
    labelled: Counts = field(default_factory=Counts)
    timing_errors: Counter[float] = field(default_factory=Counter)  # signed, frames; positive is late
    rest: Mean = field(default_factory=Mean)
    rest_truth: Mean = field(default_factory=Mean)
    rest_loud: Mean = field(default_factory=Mean)
    rest_loud_truth: Mean = field(default_factory=Mean)

    def add(self, side: Side) -> None:
        """Counts one clip."""
        spoken = side.speaking
        jaw = np.stack((side.prediction.jaw, side.truth.jaw), axis=1)
        moments = Moments.of(jaw[spoken])
        self.jaw += moments
        if moments.count >= LEAST_SPEECH_FRAMES and moments.comoment[1, 1] > 0.0:
            # A jaw that never moves has no correlation; it has earned 0, not an exemption.
            self.jaw_by_clip.add(np.nan_to_num(np.array([pearson(moments)])))

        self.rest.add(jaw[~spoken, 0])
        self.rest_truth.add(jaw[~spoken, 1])
        self.rest_loud.add(jaw[side.other_loud, 0])
        self.rest_loud_truth.add(jaw[side.other_loud, 1])
        if "lip_closure" in detectors(side.truth.rig):
            self._add_closures(side)

    def _add_closures(self, side: Side) -> None:
        truth = within(lip_closures(side.truth), side.speaking)
        prediction = within(lip_closures(side.prediction), side.speaking)
        pairs = match_by_time(truth, prediction, CLOSURE_TOLERANCE_FRAMES)
        self.closures += Counts(len(pairs), len(truth), len(prediction))
        self.timing_errors.update((centres(prediction)[pairs[:, 1]] - centres(truth)[pairs[:, 0]]).tolist())
        if side.labels:
            labels = within(side.labels.get("lip_closure", NO_EVENTS), side.speaking)
            hits = len(match_by_time(labels, prediction, CLOSURE_TOLERANCE_FRAMES))
            self.labelled += Counts(hits, len(labels), len(prediction))

    def __iadd__(self, other: LipMetrics) -> LipMetrics:
        self.jaw += other.jaw
        self.jaw_by_clip += other.jaw_by_clip
        self.closures += other.closures
        self.labelled += other.labelled
        self.timing_errors.update(other.timing_errors)
        for name in ("rest", "rest_truth", "rest_loud", "rest_loud_truth"):
            getattr(self, name).__iadd__(getattr(other, name))
        return self

    def result(self) -> dict[str, Any]:
        """The figures, named as in docs/metrics.md."""
        errors = np.array(sorted(self.timing_errors.elements()))
        known = len(errors) > 0
        return {
            "jaw_correlation": self.jaw_by_clip.value,
            "jaw_correlation_pooled": pearson(self.jaw),
            "closures": self.closures.as_dict(),
            "closures_against_labels": self.labelled.as_dict(),
            "closure_timing_median_frames": float(np.median(np.abs(errors))) if known else float("nan"),
            "closure_timing_bias_frames": float(np.mean(errors)) if known else float("nan"),
            "closure_timing_share_within_1": float(np.mean(np.abs(errors) <= 1.0)) if known else float("nan"),
            "rest_jaw": self.rest.value,
            "rest_jaw_truth": self.rest_truth.value,
            "rest_jaw_other_loud": self.rest_loud.value,
            "rest_jaw_other_loud_truth": self.rest_loud_truth.value,
        }
