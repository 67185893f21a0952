"""Sums that grow clip by clip, so that evaluation holds one clip in memory at a time and processes can share the work.

Everything here adds with `+=`, like the sums it is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unils_training.metrics.events import Floats


@dataclass
class Mean:
    """A weighted mean."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, values: Floats) -> None:
        """Counts every entry of `values` with weight 1."""
        self.total += float(np.sum(values))
        self.weight += values.size

    def __iadd__(self, other: Mean) -> Mean:
        self.total += other.total
        self.weight += other.weight
        return self

    @property
    def value(self) -> float:
        """The mean; NaN when nothing was added."""
        return self.total / self.weight if self.weight else float("nan")


@dataclass
class Moments:
    """Count, mean and co-moments of rows (n, D), merged by the update of Chan, Golub and LeVeque (1979)."""

    count: int = 0
    mean: Floats = field(default_factory=lambda: np.zeros(0))
    comoment: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # sum of outer products of deviations

    @classmethod
    def of(cls, rows: Floats) -> Moments:
        """The moments of rows (n, D)."""
        if len(rows) == 0:
            return cls()
        mean = rows.mean(axis=0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def __iadd__(self, other: Moments) -> Moments:
        if other.count == 0:
            return self
        if self.count == 0:
            self.count, self.mean, self.comoment = other.count, other.mean.copy(), other.comoment.copy()
            return self
        count = self.count + other.count
        step = other.mean - self.mean
        self.comoment = self.comoment + other.comoment + np.outer(step, step) * (self.count * other.count / count)
        self.mean = self.mean + step * (other.count / count)
        self.count = count
        return self

    @property
    def covariance(self) -> Floats:
        """Unbiased covariance (D, D); NaN below two rows."""
        if self.count < 2:
            return np.full_like(self.comoment, np.nan)
        return self.comoment / (self.count - 1)

    @property
    def std(self) -> Floats:
        """Unbiased standard deviation (D,)."""
        return np.sqrt(np.diag(self.covariance))


def pearson(moments: Moments) -> float:
    """Correlation of the two columns; NaN when either is constant."""
    scale = float(np.sqrt(moments.comoment[0, 0] * moments.comoment[1, 1])) if moments.count else 0.0
    return float(moments.comoment[0, 1]) / scale if scale > 0.0 else float("nan")


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians with these moments (Dowson and Landau, 1982)."""
    if first.count < 2 or second.count < 2:
        return float("nan")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second.covariance @ root)
    shift = float(np.sum((first.mean - second.mean) ** 2))
    spread = float(np.trace(first.covariance) + np.trace(second.covariance))
    return max(0.0, shift + spread - 2.0 * float(np.sum(np.sqrt(np.maximum(cross, 0.0)))))
