"""What `unils-train eval` measures; docs/metrics.md defines every figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unils_training.metrics.alive import AliveMetrics
from unils_training.metrics.check import DetectorCheck
from unils_training.metrics.lips import LipMetrics
from unils_training.metrics.listening import ListeningMetrics, contingency
from unils_training.metrics.paper import Mesh, PaperMetrics, paper_table
from unils_training.metrics.side import Motion, Side, frame_level, voice_mask
from unils_training.metrics.spectrum import ListeningSpectrum
from unils_training.metrics.targets import Line, markdown_table, quality_lines, without_ruler

__all__ = [
    "Line",
    "Mesh",
    "Metrics",
    "Motion",
    "PaperMetrics",
    "Side",
    "contingency",
    "frame_level",
    "markdown_table",
    "paper_table",
    "quality_lines",
    "voice_mask",
    "without_ruler",
]


@dataclass
class Metrics:
    """All figures as sums over clips: `add` one side at a time, `+=` another process's sums, read `result`."""

    paper: PaperMetrics = field(default_factory=PaperMetrics)
    lips: LipMetrics = field(default_factory=LipMetrics)
    alive: AliveMetrics = field(default_factory=AliveMetrics)
    listening: ListeningMetrics = field(default_factory=ListeningMetrics)
    spectrum: ListeningSpectrum = field(default_factory=ListeningSpectrum)
    detectors: DetectorCheck = field(default_factory=DetectorCheck)

    def add(self, side: Side, mesh: Mesh | None = None) -> None:
        """Counts one clip; `mesh` (flame.FlameMesh) gives one of rig `flame` its vertices."""
        self.paper.add(side, mesh)
        self.lips.add(side)
        self.alive.add(side)
        self.listening.add(side)
        self.spectrum.add(side)
        self.detectors.add(side)

    def __iadd__(self, other: Metrics) -> Metrics:
        self.paper += other.paper
        self.lips += other.lips
        self.alive += other.alive
        self.listening += other.listening
        self.spectrum += other.spectrum
        self.detectors += other.detectors
        return self

    def result(self) -> dict[str, Any]:
        """Every figure by part, and the rig of the clips."""
        return {
            "rig": self.alive.rig,
            "paper": self.paper.result(),
            "lips": self.lips.result(),
            "alive": self.alive.result(),
            "listening": self.listening.result(),
            "listening_spectrum": self.spectrum.result(),
            "detectors": self.detectors.result(),
        }
