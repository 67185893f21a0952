"""Does the listener react to the other person, and not just move?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unils_training.metrics.detect import detectors
from unils_training.metrics.events import (
    NO_EVENTS,
    Counts,
    Events,
    Floats,
    centres,
    iou,
    match,
    match_by_overlap,
    within,
)
from unils_training.metrics.side import FRAME_RATE, Side

REACTIONS = ("nod", "smile")  # what the reaction F1 counts
ALSO = ("shake", "brow_raise")
LEAST_IOU = 0.5
LOOSE_IOU = 0.25
LOOSE_FRAMES = 12.0  # half a second: the loose score also pairs events whose centres are this near


def loose_match(truth: Events, prediction: Events) -> Events:
    """Pairs with IoU >= 0.25, or with centres within half a second."""
    overlap = iou(truth, prediction)
    near = np.abs(centres(truth)[:, None] - centres(prediction)[None, :]) <= LOOSE_FRAMES
    return match(np.where((overlap >= LOOSE_IOU) | near, overlap, np.nan))


@dataclass
class ListeningMetrics:
    """Counts of reactions by kind and clip; `add` a side, `+=` another process's counts, read `result`."""

    strict: dict[str, dict[str, Counts]] = field(default_factory=dict)  # kind -> clip -> counts
    loose: dict[str, dict[str, Counts]] = field(default_factory=dict)
    labelled: dict[str, dict[str, Counts]] = field(default_factory=dict)
    frames: int = 0

    def add(self, side: Side) -> None:
        """Counts one clip."""
        self.frames += int(side.listening.sum())
        known = detectors(side.truth.rig)
        for kind in (*REACTIONS, *ALSO):
            if kind not in known:
                continue
            truth = within(known[kind](side.truth), side.listening)
            prediction = within(known[kind](side.prediction), side.listening)
            strict = len(match_by_overlap(truth, prediction, LEAST_IOU))
            loose = len(loose_match(truth, prediction))
            self.strict.setdefault(kind, {})[side.name] = Counts(strict, len(truth), len(prediction))
            self.loose.setdefault(kind, {})[side.name] = Counts(loose, len(truth), len(prediction))
            if side.labels:
                labels = within(side.labels.get(kind, NO_EVENTS), side.listening)
                hits = len(match_by_overlap(labels, prediction, LEAST_IOU))
                self.labelled.setdefault(kind, {})[side.name] = Counts(hits, len(labels), len(prediction))

    def __iadd__(self, other: ListeningMetrics) -> ListeningMetrics:
        for name in ("strict", "loose", "labelled"):
            for kind, clips in getattr(other, name).items():
                getattr(self, name).setdefault(kind, {}).update(clips)
        self.frames += other.frames
        return self

    def reactions_by_clip(self) -> dict[str, Counts]:
        """Strict counts of nods and smiles together, by clip; of nods alone where the rig has no smiles."""
        total: dict[str, Counts] = {}
        for kind in REACTIONS:
            for clip, counts in self.strict.get(kind, {}).items():
                total[clip] = total.get(clip, Counts()) + counts
        return total

    def result(self) -> dict[str, Any]:
        """The figures, named as in docs/metrics.md."""
        minutes = self.frames / (60.0 * FRAME_RATE)

        def scores(by_kind: dict[str, dict[str, Counts]]) -> dict[str, Any]:
            kinds = {kind: sum(clips.values(), Counts()) for kind, clips in by_kind.items()}
            together = sum((kinds[kind] for kind in REACTIONS if kind in kinds), Counts())
            return {"reactions": together.as_dict(), **{kind: counts.as_dict() for kind, counts in kinds.items()}}

        strict = {kind: sum(clips.values(), Counts()) for kind, clips in self.strict.items()}
        return {
            "minutes": minutes,
            "per_minute": {k: c.predicted / minutes if minutes else float("nan") for k, c in strict.items()},
            "per_minute_truth": {k: c.truth / minutes if minutes else float("nan") for k, c in strict.items()},
            "strict": scores(self.strict),
            "loose": scores(self.loose),
            "against_labels": scores(self.labelled),
        }


def contingency(right: ListeningMetrics, shuffled: ListeningMetrics, draws: int = 2000) -> dict[str, float]:
    """Reaction F1 with the right partner over that with a shuffled one, and its 95 % bootstrap interval over clips.

    A shuffled partner is credited with at least half a hit, so that a ratio of next to nothing over nothing is not
    infinite. NaN where there was nothing to hit.
    """
    clips = sorted(set(right.reactions_by_clip()) & set(shuffled.reactions_by_clip()))

    def table(metrics: ListeningMetrics) -> Floats:
        counts = metrics.reactions_by_clip()
        rows = [(counts[clip].hits, counts[clip].truth + counts[clip].predicted) for clip in clips]
        return np.array(rows, np.float64).reshape(-1, 2)

    def f1(sums: Floats, least_hits: float = 0.0) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2.0 * np.maximum(sums[..., 0], least_hits) / sums[..., 1], np.float64)

    tables = table(right), table(shuffled)
    picks = np.random.default_rng(0).integers(max(len(clips), 1), size=(draws, len(clips)))
    whole = [rows.sum(axis=0) for rows in tables]
    drawn = [rows[picks].sum(axis=1) for rows in tables]
    ratios = f1(drawn[0]) / f1(drawn[1], least_hits=0.5)
    ratios = ratios[~np.isnan(ratios)]
    low, high = np.quantile(ratios, (0.025, 0.975)) if len(ratios) else (np.nan, np.nan)
    return {
        "f1": float(f1(whole[0])),
        "f1_shuffled": float(f1(whole[1])),
        "ratio": float(f1(whole[0]) / f1(whole[1], least_hits=0.5)),
        "ratio_low": float(low),
        "ratio_high": float(high),
    }
