"""The figures that papers on conversational faces report, and their table. docs/metrics.md defines each.

Frames are split by the speech mask alone: `speaking` where it holds, `listening` where it does not. Every figure but
SID is made of one clip and averaged over clips, so memory does not grow with their number; SID keeps a sample of
bounded size.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from unils_training.metrics.accumulate import Mean, Moments, frechet_distance
from unils_training.metrics.events import Bools, Floats
from unils_training.metrics.side import GROUPS, Motion, Side
from unils_training.rigs import ARKIT_CHANNELS, FLAME_CHANNELS, HEAD_CHANNELS, JAW_CHANNEL

STATES = ("speaking", "listening")
FIGURES = ("lve", "mhd", "fdd", "pdd", "jdd")
DYNAMICS_SCALE = 100.0  # of FDD, PDD and JDD, by their definition
CLUSTERS = {"expression": 40, "jaw": 10, "pose": 10}
SAMPLE_FRAMES = 8192  # of all clips together, for SID
CHUNK_FRAMES = 128  # of vertices in memory at a time: 5023 of them are 15 MB in float64

PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "arkit": {
        "expression": tuple(name for name in ARKIT_CHANNELS[:52] if name != JAW_CHANNEL["arkit"]),
        "jaw": (JAW_CHANNEL["arkit"],),
        "pose": HEAD_CHANNELS["arkit"],
    },
    "flame": {"expression": FLAME_CHANNELS[:100], "jaw": (JAW_CHANNEL["flame"],), "pose": HEAD_CHANNELS["flame"]},
}
"""What Frechet distances, SID and rPCC are reported for, by rig."""

ARKIT_LIPS = (*GROUPS["jaw"], *GROUPS["mouth"])
ARKIT_UPPER_FACE = tuple(name for group in ("brows", "gaze", "lids", "cheeks") for name in GROUPS[group])


class Mesh(Protocol):
    """Where a face of rig `flame` has its vertices (flame.FlameMesh)."""

    lips: NDArray[np.int64]
    upper_face: NDArray[np.int64]
    source: str

    def __call__(self, motion: Floats) -> Floats:
        """Vertices (T, V, 3) in mm without head pose, of motion (T, 108)."""
        ...


@dataclass
class _Columns:
    """Count, mean and sum of squared deviations by column, of rows that come in pieces (Chan et al., 1979)."""

    count: int = 0
    mean: Floats | float = 0.0
    deviation: Floats | float = 0.0

    def add(self, rows: Floats) -> None:
        if len(rows) == 0:
            return
        mean = rows.mean(axis=0)
        count = self.count + len(rows)
        step = mean - self.mean
        squares = ((rows - mean) ** 2).sum(axis=0)
        self.deviation = self.deviation + squares + step**2 * (self.count * len(rows) / count)
        self.mean = self.mean + step * (len(rows) / count)
        self.count = count

    @property
    def std(self) -> Floats:
        return np.sqrt(np.asarray(self.deviation) / (self.count - 1))


@dataclass
class _Errors:
    """What vertices, or blendshapes in their place, say about the frames of one clip and state."""

    largest_on_lips: Mean = field(default_factory=Mean)  # squared distances
    distance: Mean = field(default_factory=Mean)
    upper_truth: _Columns = field(default_factory=_Columns)
    upper_prediction: _Columns = field(default_factory=_Columns)

    def figures(self) -> dict[str, float]:
        return {
            "lve": float(np.sqrt(self.largest_on_lips.value)),
            "mhd": float(np.sqrt(self.distance.value)),
            "fdd": DYNAMICS_SCALE * float(np.mean(np.abs(self.upper_prediction.std - self.upper_truth.std))),
        }


def _vertex_pieces(side: Side, mesh: Mesh) -> Iterator[tuple[slice, Floats, Floats, Floats, Floats]]:
    for start in range(0, len(side), CHUNK_FRAMES):
        piece = slice(start, start + CHUNK_FRAMES)
        truth, prediction = mesh(side.truth.values[piece]), mesh(side.prediction.values[piece])
        squared = ((prediction - truth) ** 2).sum(axis=2)
        upper = [vertices[:, mesh.upper_face].sum(axis=2) for vertices in (truth, prediction)]
        yield piece, squared[:, mesh.lips].max(axis=1), squared.mean(axis=1), upper[0], upper[1]


def _blendshape_pieces(side: Side) -> Iterator[tuple[slice, Floats, Floats, Floats, Floats]]:
    def squared(names: tuple[str, ...]) -> Floats:
        return (side.prediction.columns(names) - side.truth.columns(names)) ** 2

    upper = [motion.columns(ARKIT_UPPER_FACE) for motion in (side.truth, side.prediction)]
    lips, all_of_them = squared(ARKIT_LIPS).max(axis=1), squared(ARKIT_CHANNELS[:52]).mean(axis=1)
    yield slice(0, len(side)), lips, all_of_them, upper[0], upper[1]


def _errors(side: Side, masks: dict[str, Bools], mesh: Mesh | None) -> dict[str, _Errors]:
    """By state; none where the rig is `flame` and there is no FLAME file."""
    if mesh is None and side.truth.rig == "flame":
        return {}
    errors = {state: _Errors() for state in masks}
    pieces = _blendshape_pieces(side) if mesh is None else _vertex_pieces(side, mesh)
    for piece, lips, distance, upper_truth, upper_prediction in pieces:
        for state, mask in masks.items():
            chosen = mask[piece]
            errors[state].largest_on_lips.add(lips[chosen])
            errors[state].distance.add(distance[chosen])
            errors[state].upper_truth.add(upper_truth[chosen])
            errors[state].upper_prediction.add(upper_prediction[chosen])
    return errors


def dynamics_deviation(truth: Floats, prediction: Floats) -> float:
    """100 x |std of x + y + z, predicted less true| of one point or joint (T, n), std with ddof 1."""
    spread = [float(values.sum(axis=1).std(ddof=1)) for values in (truth, prediction)]
    return DYNAMICS_SCALE * abs(spread[1] - spread[0])


def correlation(first: Floats, second: Floats) -> float:
    """Mean over columns of Pearson's r of two (T, n); a column that is constant on either side has 0."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(np.mean(np.where(scale > 0.0, (a * b).sum(axis=0) / np.where(scale > 0.0, scale, 1.0), 0.0)))


def label_entropy(truth: NDArray[np.floating], frames: NDArray[np.floating], clusters: int) -> float:
    """Entropy in bits of the labels that a k-means fitted on `truth` (n, D) gives to `frames` (m, D).

    Fewer than `clusters` where `truth` has fewer different rows. Seeded: the same rows give the same figure.
    """
    if len(truth) == 0 or len(frames) == 0:
        return float("nan")
    count = min(clusters, len(np.unique(truth, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that stays empty has no labels, and no share in this
        centres, _ = kmeans2(truth, count, iter=30, minit="++", seed=0)
    labels, _ = vq(frames, centres)
    share = np.bincount(labels, minlength=count) / len(labels)
    share = share[share > 0.0]
    return float(-(share * np.log2(share)).sum())


@dataclass
class _Sample:
    """Rows drawn evenly from all clips: those with the smallest of keys that hang on clip and frame alone.

    So the sample does not depend on the order of clips, nor on how they were shared between processes.
    """

    keys: Floats = field(default_factory=lambda: np.zeros(0))
    truth: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    prediction: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def add(self, name: str, truth: Floats, prediction: Floats) -> None:
        keys = np.random.default_rng(zlib.crc32(name.encode())).random(len(truth))
        self += _Sample(keys, truth.astype(np.float32), prediction.astype(np.float32))

    def __iadd__(self, other: _Sample) -> _Sample:
        if len(other.keys) == 0:
            return self
        keys = np.concatenate((self.keys, other.keys))
        # Sorted, so that the rows lie alike whichever way they came.
        kept = np.argsort(keys, kind="stable")[:SAMPLE_FRAMES]
        width = other.truth.shape[1]
        for name in ("truth", "prediction"):
            mine = getattr(self, name).reshape(-1, width)
            setattr(self, name, np.concatenate((mine, getattr(other, name)))[kept])
        self.keys = keys[kept]
        return self


@dataclass
class PaperMetrics:
    """Sums over clips; `add` a side, `+=` another process's sums, read `result`."""

    rig: str = ""
    unit: str = ""
    regions: str = ""
    clips: int = 0
    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    figures: dict[str, dict[str, Mean]] = field(
        default_factory=lambda: {state: {name: Mean() for name in FIGURES} for state in STATES}
    )
    frechet: dict[str, Mean] = field(default_factory=lambda: {part: Mean() for part in CLUSTERS})
    paired_frechet: dict[str, Mean] = field(default_factory=lambda: {part: Mean() for part in CLUSTERS})
    residual_correlation: dict[str, Mean] = field(default_factory=lambda: {part: Mean() for part in CLUSTERS})
    sample: _Sample = field(default_factory=_Sample)

    def add(self, side: Side, mesh: Mesh | None = None) -> None:
        """Counts one clip. `mesh` gives rig `flame` its vertices; without, LVE, MHD and FDD are not measured on it."""
        rig = side.truth.rig
        if mesh is not None and rig != "flame":
            raise ValueError(f"{side.name} is of rig {rig}, which has no FLAME vertices")
        self.rig, self.clips = rig, self.clips + 1
        self.unit = "mm" if mesh else ("blendshapes" if rig == "arkit" else "")
        self.regions = mesh.source if mesh else ""
        masks = {"speaking": side.speaking, "listening": ~side.speaking}
        masks = {state: mask for state, mask in masks.items() if mask.sum() >= 2}  # one frame has no std
        for state, errors in _errors(side, masks, mesh).items():
            for name, value in errors.figures().items():
                self.figures[state][name].add(np.array([value]))
        parts = PARTS[rig]
        truth, prediction = ({part: m.columns(parts[part]) for part in parts} for m in (side.truth, side.prediction))
        for state, mask in masks.items():
            self.frames[state] += int(mask.sum())
            for name, part in (("pdd", "pose"), ("jdd", "jaw")):
                value = dynamics_deviation(truth[part][mask], prediction[part][mask])
                self.figures[state][name].add(np.array([value]))
        if len(side) >= 2:
            for part in parts:
                distance = frechet_distance(Moments.of(truth[part]), Moments.of(prediction[part]))
                self.frechet[part].add(np.array([distance]))
            if side.partner is not None:
                self._add_paired(truth, prediction, side.partner)
        self.sample.add(side.name, *(np.concatenate(list(part.values()), axis=1) for part in (truth, prediction)))

    def _add_paired(self, truth: dict[str, Floats], prediction: dict[str, Floats], partner: Motion) -> None:
        for part, names in PARTS[self.rig].items():
            other = partner.columns(names)
            pairs = [Moments.of(np.concatenate((other, own[part]), axis=1)) for own in (truth, prediction)]
            self.paired_frechet[part].add(np.array([frechet_distance(*pairs)]))
            gap = abs(correlation(truth[part], other) - correlation(prediction[part], other))
            self.residual_correlation[part].add(np.array([gap]))

    def __iadd__(self, other: PaperMetrics) -> PaperMetrics:
        if other.clips == 0:
            return self
        self.rig, self.unit, self.regions = other.rig, other.unit, other.regions
        self.clips += other.clips
        for state in STATES:
            self.frames[state] += other.frames[state]
            for name in FIGURES:
                self.figures[state][name] += other.figures[state][name]
        for sums in ("frechet", "paired_frechet", "residual_correlation"):
            for part in CLUSTERS:
                getattr(self, sums)[part].__iadd__(getattr(other, sums)[part])
        self.sample += other.sample
        return self

    def result(self) -> dict[str, Any]:
        """The figures, named as in docs/metrics.md; NaN where one was not measured."""
        entropy: dict[str, dict[str, float]] = {"sid": {}, "sid_truth": {}}
        at = 0
        for part, clusters in CLUSTERS.items():
            width = len(PARTS[self.rig][part]) if self.rig else 0
            truth, prediction = (rows[:, at : at + width] for rows in (self.sample.truth, self.sample.prediction))
            entropy["sid"][part] = label_entropy(truth, prediction, clusters)
            entropy["sid_truth"][part] = label_entropy(truth, truth, clusters)
            at += width
        return {
            "rig": self.rig,
            "unit": self.unit,
            "regions": self.regions,
            "clips": self.clips,
            **{
                state: {
                    "frames": self.frames[state],
                    **{name: mean.value for name, mean in self.figures[state].items()},
                }
                for state in STATES
            },
            "fd": {part: mean.value for part, mean in self.frechet.items()},
            "paired_fd": {part: mean.value for part, mean in self.paired_frechet.items()},
            "rpcc": {part: mean.value for part, mean in self.residual_correlation.items()},
            **entropy,
        }


COLUMNS: tuple[tuple[str, str, str], ...] = (
    *((f"S-{name.upper()}", "speaking", name) for name in FIGURES),
    *((f"L-{name.upper()}", "listening", name) for name in ("fdd", "pdd", "jdd")),
    ("F-FID", "fd", "expression"),
    ("P-FID", "fd", "pose"),
)
"""Columns of the paper's table, and where `PaperMetrics.result` has each."""


def paper_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown in the layout of the paper's table: a row for each name and its `PaperMetrics.result()`.

    A cell is empty where the figure was not measured: NaN, or None as JSON has it.
    """

    def cell(value: float | None) -> str:
        return "" if value is None or np.isnan(value) else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"

    rows = [[name, *(cell(result[where][key]) for _, where, key in COLUMNS)] for name, result in results.items()]
    lines = [["", *(column for column, _, _ in COLUMNS)], ["---"] * (len(COLUMNS) + 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
