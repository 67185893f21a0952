"""One side of a conversation, and what that person is doing in each frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unils_training.metrics.events import Bools, Events, Floats, hysteresis, join
from unils_training.rigs import FLAME_CHANNELS, HEAD_CHANNELS, JAW_CHANNEL

FRAME_RATE = 25
HOP_SAMPLES = 640
STATES = ("speaking", "listening", "silent")
# A listener goes on listening through the other's pauses: back-channels come some 700 ms after the cue, often into one.
LISTENING_HANGOVER_FRAMES = 50

GROUPS: dict[str, tuple[str, ...]] = {
    "head": ("headYaw", "headPitch", "headRoll"),
    "brows": ("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "gaze": tuple(f"eyeLook{way}{side}" for side in ("Left", "Right") for way in ("Down", "In", "Out", "Up")),
    "lids": tuple(f"eye{what}{side}" for side in ("Left", "Right") for what in ("Blink", "Squint", "Wide")),
    "jaw": ("jawForward", "jawLeft", "jawRight", "jawOpen"),
    "mouth": (
        *("mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight"),
        *("mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft"),
        *("mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
        *("mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft"),
        "mouthUpperUpRight",
    ),
    "cheeks": ("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
}
"""The groups of rig `arkit`."""

RIG_GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "arkit": GROUPS,
    "flame": {
        "head": HEAD_CHANNELS["flame"],
        "gaze": FLAME_CHANNELS[-4:],
        "jaw": (JAW_CHANNEL["flame"],),
        "expression": FLAME_CHANNELS[:100],
    },
}
"""Channels of every group, by rig."""


def rig_of(channels: tuple[str, ...]) -> str:
    """The rig that channels of these names are of."""
    return "flame" if JAW_CHANNEL["flame"] in channels else "arkit"


@dataclass(frozen=True)
class Motion:
    """Motion of either rig, whose channels are found by name."""

    values: Floats  # (T, D)
    channels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.channels):
            raise ValueError(f"motion of shape {self.values.shape} does not fit {len(self.channels)} channel names")
        if not np.isfinite(self.values).all():
            raise ValueError("motion holds NaN or infinity; a model that emits either has failed, and has no score")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rig(self) -> str:
        """`arkit` or `flame`."""
        return rig_of(self.channels)

    @property
    def jaw(self) -> Floats:
        """How far the mouth is open (T,), in the rig's units."""
        return self[JAW_CHANNEL[self.rig]]

    def __getitem__(self, channel: str) -> Floats:
        """One channel (T,)."""
        column: Floats = self.values[:, self.channels.index(channel)]
        return column

    def mean_of(self, *channels: str) -> Floats:
        """Mean over channels, such as left and right (T,)."""
        return np.asarray(np.mean([self[channel] for channel in channels], axis=0), np.float64)

    def columns(self, names: tuple[str, ...]) -> Floats:
        """The channels of these names (T, n)."""
        return self.values[:, [self.channels.index(name) for name in names]]


@dataclass(frozen=True)
class Side:
    """Truth and prediction of one person's face, T frames each, and who speaks when.

    `speaking` and `other_speaking` are (T,) masks; `other_level` (T,) is the other track's level in dB relative to full
    scale. `labels` holds true events by kind, where the corpus has them. `partner` is the other person's true motion,
    where known.
    """

    name: str
    truth: Motion
    prediction: Motion
    speaking: Bools
    other_speaking: Bools
    other_level: Floats
    labels: dict[str, Events] = field(default_factory=dict)
    partner: Motion | None = None

    def __post_init__(self) -> None:
        lengths = {
            len(self.truth),
            len(self.prediction),
            len(self.speaking),
            len(self.other_speaking),
            len(self.other_level),
        }
        if len(lengths) != 1:
            raise ValueError(f"{self.name}: truth, prediction and masks differ in length: {sorted(lengths)} frames")
        if self.truth.channels != self.prediction.channels:
            raise ValueError(f"{self.name}: truth and prediction differ in channels")

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def listening(self) -> Bools:
        """Silent oneself while the other speaks, or did within the last 2 s (T,)."""
        spoke = np.where(self.other_speaking, np.arange(len(self)), -LISTENING_HANGOVER_FRAMES - 1)
        since = np.arange(len(self)) - np.maximum.accumulate(spoke)
        return ~self.speaking & (since <= LISTENING_HANGOVER_FRAMES)

    @cached_property
    def other_loud(self) -> Bools:
        """Silent oneself in the louder half of the frames in which the other speaks meanwhile (T,)."""
        heard = ~self.speaking & self.other_speaking
        if not heard.any():
            return heard
        return heard & (self.other_level >= np.median(self.other_level[heard]))

    def state(self, name: str) -> Bools:
        """Mask (T,) of one of `STATES`, exactly one of which holds in every frame, or of "all" frames."""
        if name == "all":
            return np.ones(len(self), np.bool_)
        if name == "speaking":
            return self.speaking
        if name == "listening":
            return self.listening
        return ~self.speaking & ~self.listening


def frame_level(samples: NDArray[np.int16]) -> Floats:
    """Level in dB relative to full scale of each whole hop of 16 kHz mono audio (T,)."""
    hops = samples[: len(samples) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES).astype(np.float64) / 32768.0
    level: Floats = 10.0 * np.log10(np.maximum(np.mean(hops**2, axis=1), 1e-10))
    return level


def voice_mask(level: Floats) -> Bools:
    """Speech by level alone (T,), for a corpus without `speech_mask`.

    On 12 dB over the 10th percentile and never under -50 dB, off 8 dB over it; gaps of up to 8 frames are bridged.
    """
    if len(level) == 0:
        return np.zeros(0, np.bool_)
    floor = max(float(np.percentile(level, 10)), -62.0)
    mask = np.zeros(len(level), np.bool_)
    for start, end in join(hysteresis(level, on=floor + 12.0, off=floor + 8.0), gap=8):
        mask[start:end] = True
    return mask
