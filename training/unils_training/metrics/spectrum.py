"""Power over frequency of a listening face: a stiff one lacks power, a nervous one has too much of the fast kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unils_training.metrics.events import Floats
from unils_training.metrics.side import FRAME_RATE, Motion, Side
from unils_training.rigs import HEAD_CHANNELS, JAW_CHANNEL

WINDOW_FRAMES = 64  # 2.56 s: 0.39 Hz apart, and short enough to fit into the time of listening between two turns
CHANNELS: dict[str, tuple[str, ...]] = {
    "arkit": (*HEAD_CHANNELS["arkit"], "browInnerUp", "mouthSmileLeft"),
    "flame": (*HEAD_CHANNELS["flame"], JAW_CHANNEL["flame"]),
}
FREQUENCIES = np.fft.rfftfreq(WINDOW_FRAMES, 1.0 / FRAME_RATE)


def _power(motion: Motion, start: int) -> Floats:
    rows = motion.columns(CHANNELS[motion.rig])[start : start + WINDOW_FRAMES]
    taper = np.hanning(WINDOW_FRAMES)[:, None]
    spectrum = np.fft.rfft((rows - rows.mean(axis=0)) * taper, axis=0)
    power: Floats = np.abs(spectrum) ** 2 / (FRAME_RATE * np.sum(taper**2))
    return power


@dataclass
class ListeningSpectrum:
    """Mean power density (Welch, 1967) of `CHANNELS` over windows that are wholly spent listening."""

    rig: str = "arkit"
    windows: int = 0
    truth: Floats | float = 0.0  # sums over windows (F, C)
    prediction: Floats | float = 0.0

    def add(self, side: Side) -> None:
        """Counts one clip."""
        self.rig = side.truth.rig
        for start in range(0, len(side) - WINDOW_FRAMES + 1, WINDOW_FRAMES // 2):
            if side.listening[start : start + WINDOW_FRAMES].all():
                self.windows += 1
                self.truth = self.truth + _power(side.truth, start)
                self.prediction = self.prediction + _power(side.prediction, start)

    def __iadd__(self, other: ListeningSpectrum) -> ListeningSpectrum:
        self.rig = other.rig if self.windows == 0 else self.rig
        self.windows += other.windows
        self.truth = self.truth + other.truth
        self.prediction = self.prediction + other.prediction
        return self

    def result(self) -> dict[str, Any]:
        """Hz, and power density by channel: squared units per Hz."""
        count = max(self.windows, 1)
        channels = CHANNELS[self.rig]
        shape = (len(FREQUENCIES), len(channels))

        def by_channel(power: Floats | float) -> dict[str, list[float]]:
            columns = np.broadcast_to(np.asarray(power) / count, shape).T
            return {name: column.tolist() for name, column in zip(channels, columns, strict=True)}

        return {
            "windows": self.windows,
            "hz": FREQUENCIES.tolist(),
            "truth": by_channel(self.truth),
            "prediction": by_channel(self.prediction),
        }
