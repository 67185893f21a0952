"""The figures that the ablation compares, and what they come to over seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

STIFFNESS_GROUPS = ("head", "brows", "mouth")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a result. `better` is +1 where more is better, -1 where less is, 0 where 1 is truth."""

    name: str
    title: str
    read: Callable[[Result], float | None]
    better: int


def _at(*path: str) -> Callable[[Result], float | None]:
    def read(result: Result) -> float | None:
        value: Any = result
        for key in path:
            value = None if value is None else value.get(key)
        return value

    return read


def _liveliness(measure: str) -> Callable[[Result], float | None]:
    """Mean over head, brows and mouth of a listening ratio to truth."""

    def read(result: Result) -> float | None:
        ratios = [result["alive"]["listening"].get(measure, {}).get(group) for group in STIFFNESS_GROUPS]
        known = [ratio for ratio in ratios if ratio is not None]
        return sum(known) / len(known) if known else None

    return read


FIGURES: tuple[Figure, ...] = (
    Figure("lve", "S-LVE", _at("paper", "speaking", "lve"), -1),
    Figure("mhd", "S-MHD", _at("paper", "speaking", "mhd"), -1),
    Figure("speaking_fdd", "S-FDD", _at("paper", "speaking", "fdd"), -1),
    Figure("speaking_pdd", "S-PDD", _at("paper", "speaking", "pdd"), -1),
    Figure("speaking_jdd", "S-JDD", _at("paper", "speaking", "jdd"), -1),
    Figure("fdd", "L-FDD", _at("paper", "listening", "fdd"), -1),
    Figure("pdd", "L-PDD", _at("paper", "listening", "pdd"), -1),
    Figure("jdd", "L-JDD", _at("paper", "listening", "jdd"), -1),
    Figure("face_fd", "F-FID", _at("paper", "fd", "expression"), -1),
    Figure("pose_fd", "P-FID", _at("paper", "fd", "pose"), -1),
    Figure("jaw", "jaw correlation", _at("lips", "jaw_correlation"), 1),
    Figure("closures", "lip closures, F1", _at("lips", "closures", "f1"), 1),
    Figure("std", "listening spread / truth", _liveliness("std_ratio"), 0),
    Figure("speed", "listening speed / truth", _liveliness("speed_ratio"), 0),
    Figure("reactions", "reaction F1", _at("listening", "strict", "reactions", "f1"), 1),
    Figure("shuffled", "reaction F1, shuffled partner", _at("contingency", "f1_shuffled"), -1),
)
BETTER = {1: "more is better", -1: "less is better", 0: "1 is truth"}
PAPER = FIGURES[:10]
OURS = FIGURES[10:]
BY_NAME = {figure.name: figure for figure in FIGURES}


@dataclasses.dataclass(frozen=True)
class Spread:
    """Values of one figure, a seed each, and what they come to."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over seeds (n - 1); NaN below two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def __str__(self) -> str:
        if not self.values:
            return "n/a"
        text = f"{self.mean:.3g}"
        return text if math.isnan(self.sd) else f"{text} ± {self.sd:.1g}"


def spread(figure: Figure, results: Sequence[Result]) -> Spread:
    """A figure over the results of one variant, in the order of seeds; results that lack it are left out."""
    read = [figure.read(result) for result in results]
    return Spread(tuple(float(value) for value in read if value is not None and math.isfinite(value)))
