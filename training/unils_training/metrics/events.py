"""Events in time: runs of frames, found with hysteresis and compared one to one.

Events are int64 arrays (E, 2) of [start, end) frames, ascending and disjoint. E, P: events; T: frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Events = NDArray[np.int64]
NO_EVENTS: Events = np.zeros((0, 2), np.int64)


def runs(active: Bools) -> Events:
    """Maximal runs of True in (T,)."""
    edges = np.diff(np.concatenate(([False], active, [False])).astype(np.int8))
    return np.stack((np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)), axis=1).astype(np.int64)


def hysteresis(signal: Floats, on: float, off: float) -> Events:
    """Runs where `signal` (T,) stays at or above `off` and reaches `on` at least once; needs on >= off."""
    if on < off:
        raise ValueError(f"hysteresis needs on >= off, got on {on} and off {off}")
    return np.array([run for run in runs(signal >= off) if signal[run[0] : run[1]].max() >= on], np.int64).reshape(
        -1, 2
    )


def join(events: Events, gap: int) -> Events:
    """Merges neighbours that are at most `gap` frames apart."""
    if len(events) == 0:
        return events
    cut = np.flatnonzero(events[1:, 0] - events[:-1, 1] > gap) + 1
    starts = events[np.concatenate(([0], cut)), 0]
    ends = events[np.concatenate((cut - 1, [len(events) - 1])), 1]
    return np.stack((starts, ends), axis=1)


def of_length(events: Events, shortest: int, longest: int) -> Events:
    """Events whose length in frames lies in [shortest, longest]."""
    length = events[:, 1] - events[:, 0]
    return events[(length >= shortest) & (length <= longest)]


def centres(events: Events) -> Floats:
    """Middle of each event, in frames: the event [3, 4) sits at 3.0."""
    return (events[:, 0] + events[:, 1] - 1) / 2.0


def within(events: Events, mask: Bools) -> Events:
    """Events of which the middle frame (the earlier of two) lies in `mask` (T,)."""
    middle = (events[:, 0] + events[:, 1] - 1) // 2
    return events[mask[np.clip(middle, 0, len(mask) - 1)]] if len(mask) else events[:0]


def iou(first: Events, second: Events) -> Floats:
    """Temporal intersection over union of every pair: (E, P)."""
    a, b = first[:, None, :], second[None, :, :]
    overlap = np.clip(np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]), 0, None)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap
    shared: Floats = overlap / np.maximum(union, 1)
    return shared


def match(quality: Floats) -> NDArray[np.int64]:
    """One-to-one matching of two ascending lists of events that keeps their order: pairs (M, 2).

    `quality` (E, P) lies in [0, 1]; NaN forbids a pair. The most pairs win, then the highest total quality. Events are
    disjoint, so a matching that crosses itself can always be uncrossed: keeping the order loses nothing.
    """
    n, m = quality.shape
    # A pair is worth 1 plus less than 1/(n + m), so that quality never outweighs the number of pairs.
    worth = 1.0 + quality / (n + m + 1)
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        paired = np.where(np.isnan(worth[i]), 0.0, best[i, :-1] + np.nan_to_num(worth[i]))
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], paired))
    pairs = []
    i, j = n, m
    while i > 0 and j > 0:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return np.array(pairs[::-1], np.int64).reshape(-1, 2)


def match_by_overlap(truth: Events, prediction: Events, least_iou: float) -> NDArray[np.int64]:
    """Pairs (M, 2) with temporal IoU >= `least_iou`."""
    overlap = iou(truth, prediction)
    return match(np.where(overlap >= least_iou, overlap, np.nan))


def match_by_time(truth: Events, prediction: Events, tolerance: float) -> NDArray[np.int64]:
    """Pairs (M, 2) whose centres are at most `tolerance` frames apart."""
    distance = np.abs(centres(truth)[:, None] - centres(prediction)[None, :])
    return match(np.where(distance <= tolerance, 1.0 - distance / (tolerance + 1.0), np.nan))


@dataclass(frozen=True)
class Counts:
    """What a comparison of events adds up to. Counts add over clips."""

    hits: int = 0
    truth: int = 0
    predicted: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.truth + other.truth, self.predicted + other.predicted)

    @property
    def recall(self) -> float:
        """Share of true events found; NaN when there are none."""
        return self.hits / self.truth if self.truth else float("nan")

    @property
    def precision(self) -> float:
        """Share of predicted events that are true; NaN when there are none."""
        return self.hits / self.predicted if self.predicted else float("nan")

    @property
    def f1(self) -> float:
        """2 hits / (true + predicted events); NaN when there are neither."""
        total = self.truth + self.predicted
        return 2.0 * self.hits / total if total else float("nan")

    def as_dict(self) -> dict[str, float]:
        """The counts with recall, precision and F1."""
        return {
            "truth": self.truth,
            "predicted": self.predicted,
            "hits": self.hits,
            "recall": self.recall,
            "precision": self.precision,
            "f1": self.f1,
        }
